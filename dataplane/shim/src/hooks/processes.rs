//! exec and the end. fork and posix_spawn need no hook: see `process`.

use core::ffi::{c_char, c_int};

use crate::{process, real, sys::Inside};

type Strings = *const *const c_char;

/// Runs an exec; returns only if it fails.
fn execute(exec: impl FnOnce() -> c_int) -> c_int {
    let Some(inside) = Inside::enter() else { return exec() };
    process::before_exec();
    let result = exec();
    process::exec_failed();
    drop(inside);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn execve(
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the program's promise.
    execute(|| unsafe { real::execve(path, arguments, environment) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the program's promise, and its environment.
    execute(|| unsafe { real::execve(path, arguments, environment()) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the program's promise, and its environment.
    execute(|| unsafe { real::execvpe(file, arguments, environment()) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn execvpe(
    file: *const c_char,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    // SAFETY: the program's promise.
    execute(|| unsafe { real::execvpe(file, arguments, environment) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the program's promise.
    execute(|| unsafe { real::fexecve(fd, arguments, environment) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn execveat(
    dir: c_int,
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> c_int {
    // SAFETY: the program's promise.
    execute(|| unsafe { real::execveat(dir, path, arguments, environment, flags) })
}

/// A function with a list of arguments: they are put in a row on the stack, where the rest of them is, and `to` gets the
/// row's address as its second argument.
#[cfg(target_arch = "x86_64")]
macro_rules! listed {
    ($name:ident, $to:ident) => {
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "pop rax",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push rax",
                "call {to}",
                "pop rcx",
                "add rsp, 40",
                "push rcx",
                "ret",
                to = sym $to,
            )
        }
    };
}

#[cfg(target_arch = "x86_64")]
listed!(execl, execv);
#[cfg(target_arch = "x86_64")]
listed!(execlp, execvp);
#[cfg(target_arch = "x86_64")]
listed!(execle, exec_with_environment);

/// execle(): behind the arguments' end is the environment.
#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" fn exec_with_environment(path: *const c_char, arguments: Strings) -> c_int {
    let mut end = arguments;
    // SAFETY: the program's promise: a null pointer ends the arguments, and the environment follows.
    unsafe {
        while !end.read().is_null() {
            end = end.add(1);
        }
        execve(path, arguments, end.add(1).read().cast())
    }
}

fn environment() -> Strings {
    unsafe extern "C" {
        static environ: Strings;
    }
    // SAFETY: the C library's, read as execv() would.
    unsafe { environ }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn _exit(status: c_int) -> ! {
    process::end();
    // SAFETY: plain numbers.
    unsafe { real::_exit(status) };
    // SAFETY: in case that did not end it.
    unsafe { libc::abort() }
}
