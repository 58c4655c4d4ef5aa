//! Black-box tests of the whole system.
