//! Conformance of the socket shim: what a program sees on the fast path is what it sees on the kernel's.
//!
//! The cases are functions of a C program (`tests/probe/calls`), each a few socket calls with a cooperating peer; what
//! the calls answer is written down and compared line by line:
//!
//! | way | where the case runs |
//! |---|---|
//! | oracle | a network namespace of its own, the plain kernel |
//! | plain | a compartment, `afnet exec` |
//! | fast | a compartment, `afnet exec --fast`; the shim's own counts have to show that it did something |
//!
//! Differences that are known stand in [`accepted`], each with its reason, and those that are to be mended.
//! `SHIM_CASE=TEXT` runs only cases whose name contains the text, `SHIM_WAYS=plain` only that way, `SHIM_SHOW=1` shows
//! what the oracle answers.

mod accepted;
mod bundles;
mod cases;
mod fuzz;
mod life;
mod run;
mod world;
