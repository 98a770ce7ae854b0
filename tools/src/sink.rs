//! Who receives: a child process that counts datagrams, pinned to [`SINK_CPU`], and says its count when asked.
//!
//! The child is this program again (`bench sink ...`): a line on its standard input is answered with the number
//! of datagrams received so far. The receiving thread never looks at the pipe.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    batch::Batch,
    pktgen::{
        counters::{Counters, Totals},
        echo,
    },
};

/// Where the generator and the XDP program run.
pub const LOAD_CPU: usize = 0;
/// Where the subject's receiver runs (and afnetd's worker, and DPDK's forwarding core).
pub const SINK_CPU: usize = 1;

/// Datagrams of one recvmmsg: what the AF_XDP subjects take at once too.
const BATCH: usize = 64;
/// Receive buffer of the kernel's socket in bytes: never the bottleneck.
static BUFFER: i32 = 8 << 20;

/// Parent's side of a counting child; killed when dropped.
#[derive(Debug)]
pub struct Sink {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sink {
    /// Starts `command`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self { child, input, output })
    }

    /// Asks for the count; the first call returns when the child is ready.
    ///
    /// # Errors
    /// If the child has ended.
    pub fn count(&mut self) -> Result<u64> {
        self.say("")?;
        let line = self.line()?;
        line.trim().parse().with_context(|| format!("the receiver said {line:?}"))
    }

    /// Writes a line to the child.
    ///
    /// # Errors
    /// If the child has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("the receiver has ended")
    }

    /// The next line of the child.
    ///
    /// # Errors
    /// If the child has ended.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the receiver has ended");
        Ok(line)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Raises the limit of open files to all that the kernel allows a process; without CAP_SYS_RESOURCE to the hard limit.
///
/// # Errors
/// If it refuses.
pub fn raise_file_limit() -> Result<()> {
    let all = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse().ok();
    let hard = getrlimit(Resource::Nofile).maximum;
    let set = |most| setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    set(all).or_else(|_| set(hard)).context("raise the limit of open files")
}

/// Child's side: answers each line of standard input with `count`, on a thread of its own, until the input ends;
/// then the process ends.
pub fn answer(count: Arc<AtomicU64>) {
    thread::spawn(move || {
        for _ in io::stdin().lines().map_while(Result::ok) {
            println!("{}", count.load(Ordering::Relaxed));
        }
        std::process::exit(0);
    });
}

/// Child's side: an ordinary UDP socket of the kernel on `port` of every address, read with recvmmsg.
///
/// # Errors
/// If the port is taken.
pub fn kernel(port: u16) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).context("bind")?;
    let len = libc::socklen_t::try_from(size_of::<i32>())?;
    // SAFETY: the option's value lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const BUFFER).cast(),
            len,
        )
    };
    ensure!(set == 0, "set the receive buffer: {}", io::Error::last_os_error());
    let count = Arc::new(AtomicU64::new(0));
    answer(Arc::clone(&count));
    pin(SINK_CPU)?;

    let mut batch = Batch::new(BATCH, 0);
    loop {
        let received = batch.receive(&socket)?;
        // One writer: a plain addition is enough.
        count.store(count.load(Ordering::Relaxed) + received as u64, Ordering::Relaxed);
    }
}

/// Child's side: the same, but every datagram goes back.
///
/// # Errors
/// If the port is taken.
pub fn kernel_echo(port: u16) -> Result<()> {
    let counters = Counters::default();
    pin(SINK_CPU)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in io::stdin().lines().map_while(Result::ok) {
                println!("{}", Totals::of([&counters]).received);
            }
            std::process::exit(0);
        });
        echo::run((Ipv4Addr::UNSPECIFIED, port).into(), &AtomicBool::new(false), &counters)
    })?;
    Ok(())
}

/// Pins the calling thread.
///
/// # Errors
/// If there is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu }),
        "cannot run on CPU {cpu}: the bench needs two"
    );
    Ok(())
}
