//! Conformance of the kernel path: what a program in a compartment sees is what it would see alone on a machine.
//!
//! Each case (`cases/*.txt`, see [`script`]) is a few socket operations of programs on the machines `a`, `b`,
//! `host` and `peer`. It is run several ways, and the answers are compared line by line:
//!
//! | way | where the programs are |
//! |---|---|
//! | oracle | each machine is a network namespace of its own, all on one bridge: the plain kernel |
//! | alone | `a` and `b` are compartments, `host` is beside them in their namespace |
//! | alone, raw | the same by a static program that makes its system calls itself |
//! | crowd | cases that only have `a` and `peer`: two compartments and the host play `a` at once, step by step |
//! | crowd, reversed | the same with the host first |
//!
//! Differences that are known and accepted stand in the cases, each with its reason; one that no longer occurs
//! is a failure too. `CONFINE_CASE=TEXT` runs only cases whose name contains the text, `CONFINE_WAYS=oracle`
//! (or any list of the names above, split at `;`) only these ways.

mod beside;
mod cast;
mod place;
mod probe;
mod programs;
mod report;
mod run;
mod script;
mod table;
mod world;
