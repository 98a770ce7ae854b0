//! dlsym(): a program that looks the C library's functions up by hand gets the hooks.

use core::{
    ffi::{c_char, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use crate::{real, sys::Inside};

static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// The C library's dlsym(), by the versions that it has had.
extern "C" fn find() -> *mut c_void {
    let known = REAL.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"] {
        // SAFETY: C strings.
        let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        if !found.is_null() {
            REAL.store(found, Ordering::Relaxed);
            return found;
        }
    }
    // SAFETY: there is no C library without it.
    unsafe { libc::abort() }
}

/// RTLD_NEXT is about who calls: such a call is passed on as it is.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    core::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {find}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "cmp rdi, -1",
        "je 2f",
        "mov rdx, rax",
        "jmp {by_hand}",
        "2:",
        "jmp rax",
        find = sym find,
        by_hand = sym by_hand,
    )
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn by_hand(handle: *mut c_void, name: *const c_char, real: *mut c_void) -> *mut c_void {
    type Look = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    // SAFETY: the C library's dlsym().
    let look = unsafe { core::mem::transmute::<*mut c_void, Look>(real) };
    // SAFETY: the program's promise.
    let found = unsafe { look(handle, name) };
    if found.is_null() || crate::settings::off() {
        return found;
    }
    match Inside::enter() {
        Some(_inside) => real::hook_of(found).unwrap_or(found),
        None => found,
    }
}
