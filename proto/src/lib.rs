//! The gRPC API of Thalweg: generated messages and services, and their conversion to and from the domain.
