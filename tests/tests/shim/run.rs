//! Runs cases every way and compares.

use std::{
    env,
    fs::{self, File},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use afnet_tests::{afnetd::Afnetd, shim::Counts, wait};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    accepted,
    world::{CALLS, Way, World},
};

/// No case takes longer, on a machine that stalls too: then it hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Ports of a case.
const PORTS: usize = 20;
/// The first port of the first case.
const FIRST_PORT: usize = 10_000;

/// A case, as `calls list` tells of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name.
    pub name: String,
    /// `4` or `6`.
    pub family: char,
    /// The first of its ports.
    pub port: usize,
    /// What the fast path has to do with it.
    pub carried: Carried,
}

/// What the fast path has to do with a case (`enum carried` of calls.h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carried {
    /// Accelerates sockets and carries datagrams.
    Fast,
    /// Accelerates sockets.
    Setup,
    /// Perhaps nothing.
    Plain,
}

impl Carried {
    fn named(name: &str) -> Self {
        match name {
            "fast" => Self::Fast,
            "setup" => Self::Setup,
            "plain" => Self::Plain,
            _ => panic!("calls list: {name:?}"),
        }
    }

    /// What is missing, if something is.
    fn missing(self, counts: &Counts) -> Option<&'static str> {
        match self {
            Self::Fast | Self::Setup if counts.of("accelerated") == 0 => Some("no socket was accelerated"),
            Self::Fast if counts.of("rx") + counts.of("tx") == 0 => Some("no datagram took the fast path"),
            _ => None,
        }
    }
}

/// The cases of a table, each once for each family.
pub fn cases(wanted: &str) -> Vec<Case> {
    let filter = env::var("SHIM_CASE").unwrap_or_default();
    select(|table, name| table == wanted && name.contains(&filter))
}

/// A case by its name, whatever is asked for.
pub fn cases_named(wanted: &str) -> Vec<Case> {
    select(|_, name| name == wanted)
}

fn select(wanted: impl Fn(&str, &str) -> bool) -> Vec<Case> {
    static LIST: OnceLock<String> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        let output = Command::new(CALLS).arg("list").output().expect("start calls");
        String::from_utf8(output.stdout).expect("a list")
    });
    let mut cases = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let [table, name, families, carried] = words[..] else { panic!("calls list: {line:?}") };
        if wanted(table, name) {
            let port = FIRST_PORT + PORTS * number;
            let case = |family| Case { name: name.into(), family, port, carried: Carried::named(carried) };
            cases.extend(families.chars().map(case));
        }
    }
    cases
}

/// What a run has left.
#[derive(Debug)]
pub struct Outcome {
    /// What the calls answered.
    pub answers: String,
    /// Standard error.
    pub errors: String,
}

/// Runs a case some way.
pub fn run(world: &World, daemon: Option<&Afnetd<'_>>, way: Way, case: &Case) -> Outcome {
    let mut command = world.command(way, daemon, CALLS);
    command.args([&case.name, &case.family.to_string(), &case.port.to_string()]).arg(world.socket());
    // Nobody waits for long for what does not count.
    if accepted::open_reason(case, way).is_some() {
        command.env("CALLS_PATIENCE", "1000");
        return finish_within(HANGS / 10, world, &mut command);
    }
    finish(world, &mut command)
}

/// Runs a command to its end.
pub fn finish(world: &World, command: &mut Command) -> Outcome {
    finish_within(HANGS, world, command)
}

/// What it leaves behind may go on to write: so it writes to files.
fn finish_within(time: Duration, world: &World, command: &mut Command) -> Outcome {
    let file = |name: &str| {
        let path = world.files.path().join(name);
        (File::create(&path).expect("make a file"), path)
    };
    let ((out, out_path), (err, err_path)) = (file("stdout"), file("stderr"));
    let command = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = Group(command.spawn().expect("start a case"));
    let ended = wait::within(time, || child.0.try_wait().expect("wait for a case"));
    drop(child);
    let read = |path| String::from_utf8_lossy(&fs::read(path).expect("read a file")).into_owned();
    let (mut answers, errors) = (read(out_path), read(err_path));
    match ended {
        None => answers.push_str("hangs\n"),
        Some(status) if !status.success() => answers.push_str(&format!("{status}\n")),
        Some(_) => {}
    }
    Outcome { answers, errors }
}

/// A child that leads a process group; both are killed in the end.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Whether the oracle has played a case to its end, and nothing was lost on its way.
pub fn is_sound(truth: &str) -> bool {
    let bad = ["fatal", "hangs", "nothing came", "LOST"];
    truth.ends_with("end\n") && !bad.iter().any(|bad| truth.contains(bad))
}

/// Whether `SHIM_WAYS` asks for it.
pub fn way_is_wanted(way: Way) -> bool {
    let ways = env::var("SHIM_WAYS").unwrap_or_default();
    ways.is_empty() || ways.split(';').any(|wanted| wanted == way.name())
}

/// Runs the cases of a table every way.
///
/// # Panics
/// With everything that differs.
pub fn conform(table: &str) {
    let cases = cases(table);
    let (oracle, world) = (World::oracle(table), World::confined(table));
    let mut daemon = world.daemon();
    let (mut findings, mut runs) = (String::new(), Vec::new());
    for case in &cases {
        let truth = run(&oracle, None, Way::Oracle, case);
        if env::var_os("SHIM_SHOW").is_some() {
            println!("--- {} {}\n{}", case.name, case.family, truth.answers);
        }
        if !is_sound(&truth.answers) {
            findings += &format!("{} {} itself is wrong:\n{}\n", case.name, case.family, truth.answers);
        }
        for way in Way::ALL.into_iter().filter(|way| way_is_wanted(*way)) {
            let outcome = run(&world, Some(&daemon), way, case);
            let mut found = accepted::compare(case, way, &truth.answers, &outcome.answers);
            let counts = Counts::take(&world.stats());
            if let Some(missing) = case.carried.missing(&counts).filter(|_| way == Way::Fast) {
                found += &format!("{} {} {way:?}: {missing}: {counts:?}\n", case.name, case.family);
            }
            // One line says why nothing could be accelerated, where that is right.
            let allowed = usize::from(case.carried == Carried::Plain);
            if outcome.errors.lines().count() > allowed {
                found += &format!("{} {} {way:?}: said {:?}\n", case.name, case.family, outcome.errors);
            }
            runs.push((case.name.clone(), way, !found.is_empty()));
            match accepted::open_reason(case, way) {
                Some(reason) if !found.is_empty() => println!("open ({reason}): {found}"),
                _ => findings += &found,
            }
        }
    }
    findings += &accepted::mended(&runs);
    assert!(findings.is_empty(), "\n{findings}");
    daemon.ok(&format!("del {} --force", crate::world::NAME));
    daemon.stop();
}
