//! Gets sources and builds them, once, in `target/suites`.
//!
//! ```text
//!   crates/NAME-VERSION    a published crate, with the lock file that it was published with
//!   build, build-libc ...  cargo's target directories
//!   libuv/                 Debian's source package, and its build directory
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use afnet_tests::process::run;
use serde_json::Value;

/// Tests of a published crate.
#[derive(Clone, Copy)]
pub struct Crate {
    pub name: &'static str,
    pub version: &'static str,
    /// As `cargo test` chooses them.
    pub target: &'static [&'static str],
    pub features: &'static [&'static str],
    pub rustflags: &'static str,
    /// Which of the tests; none: all.
    pub filter: &'static [&'static str],
}

/// `target/suites`, beside the directory of examples.
fn directory() -> PathBuf {
    let program = env::current_exe().expect("path of this program");
    // target/PROFILE/examples/suites
    let directory = program.ancestors().nth(3).expect("target directory").join("suites");
    fs::create_dir_all(&directory).expect("make a directory");
    directory
}

/// Cargo, as it is outside of the build that runs us.
fn cargo(within: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(within).env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(&*name);
        }
    }
    command
}

/// The crate's source.
fn source(&Crate { name, version, .. }: &Crate) -> PathBuf {
    let crates = directory().join("crates");
    let source = crates.join(format!("{name}-{version}"));
    if source.exists() {
        return source;
    }
    // Cargo gets it as a dependency of something.
    let user = directory().join("fetch").join(name);
    fs::create_dir_all(user.join("src")).expect("make a directory");
    fs::write(user.join("src/lib.rs"), "").expect("write a file");
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\n[dependencies]\n\
         {name} = {{ version = \"={version}\", default-features = false }}\n[workspace]\n"
    );
    fs::write(user.join("Cargo.toml"), manifest).expect("write a file");
    let text = run(cargo(&user).args(["metadata", "--quiet", "--format-version", "1"]));
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == name && p["version"] == version).expect("the crate");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    fs::create_dir_all(&crates).expect("make a directory");
    let half = crates.join(format!("{name}-{version}.part"));
    let _ = fs::remove_dir_all(&half);
    run(Command::new("cp").arg("-r").arg(manifest.parent().expect("a directory")).arg(&half));
    // It is below our workspace, and none of it.
    let manifest = half.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).expect("read Cargo.toml");
    fs::write(&manifest, text + "\n[workspace]\n").expect("write Cargo.toml");
    fs::rename(&half, &source).expect("rename a directory");
    source
}

/// `cargo test` of the crate, and the environment that it needs.
fn cargo_test(of: &Crate) -> (Vec<String>, Vec<String>) {
    let kind = if of.rustflags.is_empty() { "build".into() } else { format!("build-{}", of.name) };
    let target = directory().join(kind).display().to_string();
    let manifest = source(of).join("Cargo.toml").display().to_string();
    let mut words = vec!["test".into(), "--locked".into(), "--manifest-path".into(), manifest];
    words.extend(["--target-dir".into(), target]);
    if !of.features.is_empty() {
        words.extend(["--features".into(), of.features.join(",")]);
    }
    words.extend(of.target.iter().map(|&word| word.to_owned()));
    (words, vec![format!("RUSTFLAGS={}", of.rustflags)])
}

/// Builds the tests of a crate; a command that runs them.
pub fn rust(of: &Crate) -> Vec<String> {
    let (words, environment) = cargo_test(of);
    eprintln!("{}: building", of.name);
    let mut command = cargo(&directory());
    command.args(words).args(["--no-run", "--quiet"]);
    command.envs(environment.iter().filter_map(|pair| pair.split_once('=')));
    // First in words for people, if it fails.
    run(&mut command);
    let output = run(command.args(["--message-format", "json"]));
    let messages = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs: Vec<String> = messages
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .collect();
    // Each of them, with the same arguments.
    let mut words: Vec<String> = ["sh", "-c"].map(str::to_owned).into();
    let script: Vec<String> = programs.iter().map(|program| format!("{program} \"$@\"")).collect();
    words.extend([script.join("\n"), "sh".into()]);
    words.extend(of.filter.iter().map(|&word| word.to_owned()));
    words
}

/// The tests of a crate's documentation: cargo compiles them as it runs them.
pub fn documentation(of: &Crate) -> Vec<String> {
    let (words, environment) = cargo_test(of);
    run(cargo(&directory()).args(&words).arg("--no-run"));
    let mut command = vec!["env".into()];
    command.extend(environment);
    command.push("cargo".into());
    command.extend(words);
    command.extend(["--offline".into(), "--doc".into(), "--".into()]);
    command.extend(of.filter.iter().map(|&word| word.to_owned()));
    command
}

/// Builds libuv; a command that runs the tests whose name contains a word, each in a process of its own.
pub fn libuv(wanted: &str) -> Vec<String> {
    let directory = directory().join("libuv");
    let program = directory.join("build/uv_run_tests");
    if !program.exists() {
        eprintln!("libuv: building");
        fs::create_dir_all(&directory).expect("make a directory");
        let source = debian_source(&directory, "libuv1");
        let build = directory.join("build").display().to_string();
        let source = source.display().to_string();
        run(Command::new("cmake").args(["-S", &source, "-B", &build, "-DLIBUV_BUILD_TESTS=ON"]));
        run(Command::new("cmake").args(["--build", &build, "--target", "uv_run_tests", "-j2"]));
    }
    let list = run(Command::new(&program).arg("--list").env("UV_RUN_AS_ROOT", "1"));
    let names = list.lines().filter(|line| line.contains(wanted) && !line.contains(' ')).map(str::to_owned);
    let script = format!("for test; do {} \"$test\"; done", program.display());
    let mut words: Vec<String> =
        ["env", "UV_RUN_AS_ROOT=1", "UV_TEST_TIMEOUT_MULTIPLIER=4"].map(str::to_owned).into();
    words.extend(["sh".into(), "-c".into(), script, "sh".into()]);
    words.extend(names);
    words
}

/// Unpacks a source package of Debian, from where the machine has its packages.
fn debian_source(directory: &Path, package: &str) -> PathBuf {
    let lists = directory.join("apt");
    for part in ["sources", "lists"] {
        fs::create_dir_all(lists.join(part)).expect("make a directory");
    }
    let etc = Path::new("/etc/apt");
    let parts =
        fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in parts.chain([etc.join("sources.list")]) {
        let (Some(name), Ok(text)) = (path.file_name(), fs::read_to_string(&path)) else { continue };
        let line = |line: &str| match line.strip_prefix("deb ") {
            Some(rest) => format!("deb-src {rest}\n"),
            None if line.trim() == "Types: deb" => "Types: deb-src\n".into(),
            None => format!("{line}\n"),
        };
        let text: String = text.lines().map(line).collect();
        fs::write(lists.join("sources").join(name), text).expect("write a file");
    }
    let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(directory).args(["-q", "-oAPT::Sandbox::User=root"]).args([
            option("Dir::Etc::SourceList", Path::new("/dev/null")),
            option("Dir::Etc::SourceParts", &lists.join("sources")),
            option("Dir::State::Lists", &lists.join("lists")),
        ]);
        command
    };
    run(apt().arg("update"));
    run(apt().args(["source", package]));
    let unpacked = fs::read_dir(directory).expect("read a directory").flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.is_dir()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}-")))
    };
    unpacked.into_iter().find(is_it).expect("an unpacked source package")
}
