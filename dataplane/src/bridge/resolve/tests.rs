//! Names against a name server of the test's own: lifetimes, failures, deadlines.
