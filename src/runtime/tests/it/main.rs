//! Black-box tests of the server bootstrap over loopback.
