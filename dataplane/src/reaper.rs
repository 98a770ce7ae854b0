//! Closing of compartments' sockets, off the control thread and off the workers.
//!
//! A socket that has left the XSKMAP may still get frames from a NAPI poll that looked it up before; only an RCU grace
//! period later it is quiet. Then the worker empties it (frames of a closed socket's ring would be lost to the queue)
//! and hands it over to be closed, which takes the kernel a grace period more. A thread waits for both.
//!
//! ```text
//! control: XSKMAP clear, RetireSocket -> Job -> [reaper: membarrier, TakeSocket -> worker -> Socket, close]
//! ```

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use mio::Waker;

use crate::{
    error::Error,
    worker::command::{Command, Reply, Request},
};

/// How long a worker may take to hand a socket over. Its loop never blocks, so this is for a worker that died.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to send commands for a worker.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) requests: Sender<Request>,
    pub(crate) waker: Arc<Waker>,
}

#[derive(Debug)]
enum Job {
    /// Close a retired socket.
    Socket { line: Line, ifindex: u32, queue: u32, serial: u64 },
    /// Answer when all jobs before are done.
    Sync(Sender<()>),
}

/// The thread's handle; dropping it ends the thread after its last job.
#[derive(Debug)]
pub(crate) struct Reaper {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self, Error> {
        let (jobs, queue) = unbounded();
        let thread = thread::Builder::new()
            .name("afnet-reaper".to_owned())
            .spawn(move || run(&queue))
            .map_err(|e| Error::io("starting a thread", e))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Closes a retired socket some time later.
    pub(crate) fn close(&self, line: Line, ifindex: u32, queue: u32, serial: u64) {
        if let Some(jobs) = &self.jobs {
            // Fails only if the thread is gone; then the process is going too.
            let _ = jobs.send(Job::Socket { line, ifindex, queue, serial });
        }
    }

    /// Waits until all sockets given before are closed.
    pub(crate) fn wait(&self) {
        let (done, wait) = bounded(1);
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Sync(done)).is_ok()) {
            // An error means that the thread is gone, and with it all it had.
            let _ = wait.recv();
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        // One grace period serves all that wait.
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter()).collect();
        if batch.iter().any(|job| matches!(job, Job::Socket { .. })) {
            grace_period();
        }
        for job in batch {
            match job {
                Job::Socket { line, ifindex, queue, serial } => {
                    let (reply, answer) = bounded(1);
                    let command = Command::TakeSocket { ifindex, queue, serial };
                    if line.requests.send_timeout(Request { command, reply: Some(reply) }, PATIENCE).is_ok()
                        && line.waker.wake().is_ok()
                        && let Ok(Reply::Socket(socket)) = answer.recv_timeout(PATIENCE)
                    {
                        drop(socket);
                    }
                }
                // Nobody waits any more if it fails.
                Job::Sync(done) => drop(done.send(())),
            }
        }
    }
}

/// Waits until every CPU has left the code (NAPI polls among it) that it was in: an RCU grace period.
pub(crate) fn grace_period() {
    // SAFETY: membarrier takes no pointers; MEMBARRIER_CMD_GLOBAL waits for an RCU grace period.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer != 0 {
        // Refused on kernels with nohz_full CPUs: a NAPI poll never lasts that long.
        thread::sleep(Duration::from_millis(50));
    }
}
