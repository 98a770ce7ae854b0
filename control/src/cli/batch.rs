//! Batches: commands from a file over one connection, as `ip -batch`. A thousand compartments need one process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use clap::Parser;

use super::args::{Args, long_options};
use super::wait::Awaited;
use super::{CliError, one};
use crate::client::{Client, ClientError};

/// Carries out the commands of a file; `-` is standard input. Options of the outer command line hold for all.
pub fn run(file: &Path, outer: &Args, out: &mut impl Write) -> Result<(), CliError> {
    let reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let open = File::open(file).map_err(|e| CliError::Io(format!("{}: {e}", file.display())))?;
        Box::new(BufReader::new(open))
    };
    let mut client = Client::connect(&outer.instance)?;
    let mut awaited = Awaited::new(&outer.instance);
    let mut failed = None;
    let mut text = String::new();
    for (number, line) in reader.lines().enumerate() {
        text += &line.map_err(|e| CliError::Io(format!("{}: {e}", file.display())))?;
        // A backslash joins lines.
        if let Some(head) = text.strip_suffix('\\') {
            text = head.to_owned();
            continue;
        }
        let words = split(&std::mem::take(&mut text));
        if words.is_empty() {
            continue;
        }
        if let Err(e) = line_of(&mut client, outer, words, &mut awaited, out) {
            let fatal = matches!(e, CliError::Client(ClientError::Lost(_)) | CliError::Io(_));
            out.flush()?;
            eprintln!("afnet: {}:{}: {e}", file.display(), number + 1);
            failed.get_or_insert(e);
            if fatal || !outer.force {
                break;
            }
        }
    }
    let settled = awaited.finish();
    match failed {
        None => settled,
        Some(first) => {
            Err(CliError::Exec(first.status(), format!("{} was not carried out in full", file.display())))
        }
    }
}

fn line_of(
    client: &mut Client,
    outer: &Args,
    words: Vec<String>,
    awaited: &mut Awaited<'_>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let words = std::iter::once("afnet".to_owned()).chain(words).map(OsString::from);
    let mut args = Args::try_parse_from(long_options(words)).map_err(|e| {
        let text = e.to_string();
        // Its first line; the rest is the help.
        CliError::Usage(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    args.json |= outer.json;
    if args.family().is_none() {
        (args.v4, args.v6) = (outer.v4, outer.v6);
    }
    match &args.command {
        Some(command) => one(client, &args, command, awaited, out),
        None => Err(CliError::Usage("a command is missing".to_owned())),
    }
}

/// Words of a line: separated by white space, held together by quotes, up to a `#` that begins a word.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_into_words() {
        assert_eq!(split("  add  a # comment"), ["add", "a"]);
        assert_eq!(split("add a#b 'c d' \"e # f\" ''"), ["add", "a#b", "c d", "e # f", ""]);
        assert!(split("# nothing").is_empty() && split("   ").is_empty());
    }
}
