//! The thalweg binary: the services, a single-process dev mode, and the user's commands.
