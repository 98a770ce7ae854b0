//! The functions that the hooks stand before: the next ones in the search order, the C library's as a rule.
//!
//! They are looked up once, when the library is loaded, so that a signal handler never does. One that the C library does
//! not have answers ENOSYS.

use core::{
    ffi::{CStr, c_char, c_int, c_long, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use libc::{
    epoll_event, fd_set, in_addr, iovec, mmsghdr, mode_t, msghdr, nfds_t, off_t, pollfd, sigset_t, size_t,
    sockaddr, sockaddr_storage, socklen_t, ssize_t, timespec, timeval,
};

/// A function of the C library.
struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(ptr::null_mut()) }
    }

    #[inline]
    fn get(&self) -> *mut c_void {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() { self.find() } else { address }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        // SAFETY: the name is a C string.
        let mut address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if address.is_null() {
            address = missing as *mut c_void;
        }
        self.address.store(address, Ordering::Relaxed);
        address
    }
}

/// Stands in for what the C library has not.
extern "C" fn missing() -> c_long {
    crate::sys::set_errno(libc::ENOSYS);
    -1
}

macro_rules! functions {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {
        #[expect(non_upper_case_globals, reason = "named as the functions are")]
        mod symbols {
            use super::Symbol;
            $(pub(super) static $name: Symbol = Symbol::new(
                // SAFETY: one zero, at the end.
                unsafe { core::ffi::CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
            );)*
        }
        /// Looks all of them up.
        pub(crate) fn resolve() {
            $(symbols::$name.get();)*
        }

        /// The hook that stands before a function of the C library, if `address` is one of those.
        pub(crate) fn hook_of(address: *mut c_void) -> Option<*mut c_void> {
            $(if symbols::$name.get() == address {
                return Some(hooks::$name());
            })*
            None
        }

        mod hooks {
            use super::c_void;
            $(
                #[inline]
                pub(super) fn $name() -> *mut c_void {
                    unsafe extern "C" {
                        fn $name();
                    }
                    $name as *mut c_void
                }
            )*
        }
        $(
            /// As the C library says.
            ///
            /// # Safety
            /// As the C library says.
            #[inline]
            pub(crate) unsafe fn $name($($arg: $type),*) -> $ret {
                // SAFETY: the symbol has this signature (or is variadic and takes these arguments in registers all the
                // same), or answers any call.
                let function = unsafe {
                    core::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($type),*) -> $ret>(symbols::$name.get())
                };
                // SAFETY: the caller's promise.
                unsafe { function($($arg),*) }
            }
        )*
    };
}

functions! {
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int;
    connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int;
    shutdown(fd: c_int, how: c_int) -> c_int;
    close(fd: c_int) -> c_int;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(old: c_int, new: c_int) -> c_int;
    dup3(old: c_int, new: c_int, flags: c_int) -> c_int;
    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int;
    fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int;
    ioctl(fd: c_int, request: usize, argument: usize) -> c_int;
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int;
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int;
    setsourcefilter(fd: c_int, interface: u32, group: *const sockaddr, len: socklen_t, mode: u32, count: u32, sources: *const sockaddr_storage) -> c_int;
    setipv4sourcefilter(fd: c_int, interface: in_addr, group: in_addr, mode: u32, count: u32, sources: *const in_addr) -> c_int;
    send(fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    sendto(fd: c_int, data: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, tolen: socklen_t) -> ssize_t;
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int;
    write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t;
    writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t;
    sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
    sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
    splice(input: c_int, from: *mut i64, out: c_int, to: *mut i64, len: size_t, flags: c_uint) -> ssize_t;
    recv(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    recvfrom(fd: c_int, data: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, fromlen: *mut socklen_t) -> ssize_t;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int;
    read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t;
    readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t;
    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int;
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int;
    pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    epoll_wait(epoll: c_int, events: *mut epoll_event, most: c_int, timeout: c_int) -> c_int;
    epoll_pwait(epoll: c_int, events: *mut epoll_event, most: c_int, timeout: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2(epoll: c_int, events: *mut epoll_event, most: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    fdopen(fd: c_int, mode: *const c_char) -> *mut libc::FILE;
    getifaddrs(list: *mut *mut libc::ifaddrs) -> c_int;
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;
    execve(path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    execvpe(file: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    fexecve(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    execveat(dir: c_int, path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char, flags: c_int) -> c_int;
    _exit(status: c_int) -> ();
}

/// `open` is hooked by nobody: here for the log file.
pub(crate) fn open_append(path: &CStr) -> c_int {
    let mode: mode_t = 0o644;
    // SAFETY: a C string and plain numbers.
    unsafe {
        libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC, mode)
    }
}
