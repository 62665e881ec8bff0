//! How a command ends: what scripts see.

use std::io;
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: machine, device or cluster did not do what was asked
  2    the command line is wrong
  3    refused: a file, device or volume is missing, in the way, or not what it should be
  4    damage found (check), or data differs (quickstart)
  130  interrupted
  141  whoever read the output went away, as in `culvert check ... | head -1`";

/// How a command that did not do its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Machine, device or cluster failed.
    Failed = 1,
    /// What the caller named is missing, in the way, or wrong.
    Refused = 3,
    /// What is stored is not what it should be.
    Damage = 4,
    /// Somebody pressed Ctrl-C.
    Interrupted = 130,
    /// Nobody reads the output any more; the code of a program that SIGPIPE ends.
    Unread = 141,
}

/// An error with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub code: Code,
    /// What is printed.
    pub error: anyhow::Error,
}

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { code: Code::Failed, error: error.into() }
    }
}

impl Failure {
    /// A failure that may be a write to a pipe that nobody reads.
    pub fn of_output(error: impl Into<anyhow::Error>) -> Failure {
        let error = error.into();
        let is_unread = error.chain().any(|cause| {
            let cause = cause.downcast_ref::<io::Error>();
            cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
        });
        Failure { code: if is_unread { Code::Unread } else { Code::Failed }, error }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// Gives an error another code than [`Code::Failed`].
pub trait Refuse<T> {
    /// The caller named something that is missing, in the way, or wrong.
    fn refuse(self) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> Refuse<T> for Result<T, E> {
    fn refuse(self) -> Outcome<T> {
        self.map_err(|error| Failure { code: Code::Refused, error: error.into() })
    }
}

/// A refusal in words.
macro_rules! refuse {
    ($($message:tt)*) => {
        $crate::cli::exit::Failure {
            code: $crate::cli::exit::Code::Refused,
            error: anyhow::anyhow!($($message)*),
        }
    };
}
pub(crate) use refuse;
