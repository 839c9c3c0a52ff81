//! Passwords as a person gives them: by a file, by standard input, or by hand without showing them. Never as an argument.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use super::calling::CallError;
use crate::admin::secrets::PASSWORD_BYTES_MAX;

/// Where a password comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct PasswordSource {
    /// A file whose first line is the password; - for standard input. Otherwise it is asked for
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    /// Whether a file is named.
    pub fn is_named(&self) -> bool {
        self.password_file.is_some()
    }

    /// The password: one line of the file, or of standard input where nobody sits at it, or typed twice.
    pub fn read(&self, whose: &str) -> Result<String, CallError> {
        let password = match &self.password_file {
            Some(path) if path.as_os_str() != "-" => {
                let file = File::open(path).map_err(|error| CallError::File(path.clone(), error))?;
                first_line(file, path)?
            }
            Some(_) => first_line(io::stdin(), Path::new("-"))?,
            None if io::stdin().is_terminal() => {
                let password = typed(&format!("Password of {whose}: "))?;
                if typed("The same again: ")? != password {
                    return Err(CallError::Said("the two passwords are not the same".into()));
                }
                password
            }
            None => first_line(io::stdin(), Path::new("-"))?,
        };
        match password.len() {
            0 => Err(CallError::Said("the password is empty".into())),
            1..=PASSWORD_BYTES_MAX => Ok(password),
            _ => Err(CallError::Said(format!("a password has at most {PASSWORD_BYTES_MAX} bytes"))),
        }
    }
}

fn first_line(source: impl Read, path: &Path) -> Result<String, CallError> {
    let mut line = String::new();
    let mut source = io::BufReader::new(source.take(PASSWORD_BYTES_MAX as u64 + 3));
    source.read_line(&mut line).map_err(|error| CallError::File(path.to_owned(), error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// One line from the terminal, which shows nothing of it.
fn typed(prompt: &str) -> Result<String, CallError> {
    let _ = write!(io::stderr(), "{prompt}").and_then(|()| io::stderr().flush());
    let quiet = Quiet::begin();
    let line = first_line(io::stdin(), Path::new("-"));
    drop(quiet);
    let _ = writeln!(io::stderr());
    line
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet(Option<libc::termios>);

impl Quiet {
    fn begin() -> Self {
        // SAFETY: a termios of zeroes is a value of the type; tcgetattr writes into it, and it lives on this stack.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: as above; 0 is standard input, whatever that is.
        if unsafe { libc::tcgetattr(0, &mut before) } != 0 {
            return Self(None);
        }
        let mut quiet = before;
        quiet.c_lflag &= !libc::ECHO;
        // SAFETY: the pointer is to a termios on this stack.
        unsafe { libc::tcsetattr(0, libc::TCSAFLUSH, &quiet) };
        Self(Some(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: the pointer is to a termios that outlives the call.
            unsafe { libc::tcsetattr(0, libc::TCSAFLUSH, before) };
        }
    }
}
