//! A real terminal: tmux, with a shell in it that runs our programs.
//!
//! Invariants: each terminal is a tmux server of its own, ended with the value; every wait is
//! bounded.
//! Must not depend on: what the programs show.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Folder, program, until};

/// What the shell says when it waits for a command.
const PROMPT: &str = "ready$";

/// A terminal.
pub struct Tmux {
    folder: Folder,
}

/// Whether a capture keeps the escape codes of colours and attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    Kept,
    Left,
}

impl Tmux {
    /// A terminal of a size with an interactive shell, whose environment has `variables` besides.
    pub fn start(name: &str, columns: u16, rows: u16, variables: &[(&str, &str)]) -> Self {
        let tmux = Tmux {
            folder: Folder::new(name),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut shell: Vec<String> = ["env", "LC_ALL=C.UTF-8", "PS1=ready$ "]
            .map(Into::into)
            .into();
        shell.extend(
            variables
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        shell.extend(["bash", "--norc", "--noprofile", "-i"].map(Into::into));
        let mut args = vec!["new-session", "-d", "-x", &columns, "-y", &rows];
        args.extend(shell.iter().map(String::as_str));
        tmux.run(&args);
        tmux.until_prompt();
        tmux
    }

    /// A file that goes with the terminal.
    pub fn file(&self, name: &str) -> String {
        self.folder.file(name)
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {args:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn command(&self, args: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.file("socket"))
            .args(args)
            .env_remove("TMUX")
            .output()
            .expect("tmux is here (make need installs it)")
    }

    /// Types a program of ours with its arguments, and Enter.
    pub fn type_command(&self, name: &str, args: &str) {
        self.type_line(&format!("{} {args}", program(name).display()));
    }

    /// Types text, and Enter.
    pub fn type_line(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses a key: `q`, `C-c`, `Enter`.
    pub fn key(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// Sends a signal to the program of this name that the shell runs.
    pub fn signal(&self, name: &str, signal: &str) {
        let shell = self.run(&["display-message", "-p", "#{pane_pid}"]);
        let status = Command::new("pkill")
            .args([
                "--signal",
                signal,
                "--parent",
                shell.trim(),
                "--exact",
                name,
            ])
            .status()
            .expect("pkill is here (make need installs it)");
        assert!(status.success(), "{name} runs");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// What is on the screen, line by line. A line that a terminal folded because it was too long
    /// is one line here.
    pub fn screen(&self, codes: Codes) -> Vec<String> {
        let mut args = vec!["capture-pane", "-p", "-J"];
        if codes == Codes::Kept {
            args.push("-e");
        }
        let text = self.run(&args);
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Waits for a screen that `is_it`, and gives it.
    pub fn until(&self, what: &str, mut is_it: impl FnMut(&[String]) -> bool) -> Vec<String> {
        let mut last = Vec::new();
        let is_there = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.screen(Codes::Left);
                is_it(&last)
            });
        }));
        assert!(is_there.is_ok(), "{what}; the screen:\n{}", last.join("\n"));
        last
    }

    /// Waits until some line has all of these words.
    pub fn until_line(&self, words: &[&str]) -> Vec<String> {
        self.until(&format!("{words:?} in a line"), |screen| {
            has_line(screen, words)
        })
    }

    /// Waits until the shell asks for a command.
    pub fn until_prompt(&self) -> Vec<String> {
        self.until("the shell's prompt", |screen| {
            let last = screen.iter().rfind(|line| !line.is_empty());
            last.is_some_and(|line| line == PROMPT)
        })
    }

    /// The terminal is as it was before anything ran: it echoes, edits and folds lines, and shows
    /// its cursor on the ordinary screen.
    #[track_caller]
    pub fn assert_restored(&self) {
        self.until_prompt();
        let state = self.file("stty");
        let done = self.file("done");
        let _ = std::fs::remove_file(&done);
        self.type_line(&format!("stty -a > {state}; touch {done}"));
        until("stty said it", || Path::new(&done).exists());
        let said = std::fs::read_to_string(&state).expect("it said it");
        let words: Vec<&str> = said.split_whitespace().collect();
        for word in ["icanon", "echo", "isig", "ixon", "opost"] {
            assert!(words.contains(&word), "{word} in {said}");
        }
        assert!(said.contains("susp = ^Z;"), "{said}");
        let flags = self.run(&[
            "display-message",
            "-p",
            "#{alternate_on} #{cursor_flag} #{wrap_flag}",
        ]);
        assert_eq!(
            flags.trim(),
            "0 1 1",
            "alternate screen off, cursor and folding on"
        );
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]);
    }
}

/// Some line has all of these words.
pub fn has_line(screen: &[String], words: &[&str]) -> bool {
    screen
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

/// No line is longer than the terminal is wide.
#[track_caller]
pub fn assert_fits(screen: &[String], columns: usize) {
    for line in screen {
        let width = line.chars().count();
        assert!(width <= columns, "{width} of {columns} columns: {line}");
    }
}
