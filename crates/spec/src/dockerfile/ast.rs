//! The typed tree of a Dockerfile. Words stand as written: nothing is expanded and no quote removed.

use std::time::Duration;

use super::lint::Check;
use super::mount::MountFlag;
use crate::source::{Span, Spanned};

/// A word as written, with its place. Expand it with a [`super::Scope`] or with [`super::expand`].
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The character that continues lines and takes away the meaning of the next one: `\` or `` ` ``.
    pub escape: char,
    /// The value of `# syntax=`.
    pub syntax: Option<Word>,
    /// The options of `# check=`.
    pub check: Check,
    /// The variables declared before the first stage, in order.
    pub global_args: Vec<Arg>,
    /// The stages in order; never empty if the text has no errors.
    pub stages: Vec<Stage>,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The word `FROM` as written.
    pub keyword: Word,
    /// What the stage starts from: an earlier stage, `scratch`, or an image.
    pub base: Word,
    /// The name after `AS`, in lower case.
    pub name: Option<Word>,
    /// The value of `--platform`.
    pub platform: Option<Word>,
    /// What is done, in order.
    pub instructions: Vec<Instruction>,
    /// The `FROM` line.
    pub span: Span,
    /// The `FROM` line with continuations joined, without blanks at its ends.
    pub source: String,
    /// Options for the checks of this line, from the comments before it.
    pub check: Check,
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// The instruction's name as written.
    pub keyword: Word,
    /// What it says.
    pub kind: Kind,
    /// Where it stands, here-documents included.
    pub span: Span,
    /// The line with continuations joined, without blanks at its ends and without here-documents.
    pub source: String,
    /// Options for the checks of this instruction, from the comments before it.
    pub check: Check,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `ADD`: files of the context, of the network or of here-documents.
    Add(Transfer),
    /// `ARG`: declares variables.
    Arg(Vec<Arg>),
    /// `CMD`: what the image runs.
    Cmd(Command),
    /// `COPY`: files of the context, of a stage, of an image or of here-documents.
    Copy(Transfer),
    /// `ENTRYPOINT`: what the image runs first.
    Entrypoint(Command),
    /// `ENV`: sets variables of the image.
    Env(Vec<Pair>),
    /// `EXPOSE`: ports, as written.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`: how to see that the program is well.
    Healthcheck(Healthcheck),
    /// `LABEL`: sets labels of the image.
    Label(Vec<Pair>),
    /// `MAINTAINER`: the author, deprecated.
    Maintainer(Word),
    /// `ONBUILD`: an instruction for those who build on the image.
    Onbuild(Onbuild),
    /// `RUN`: runs a command.
    Run(Run),
    /// `SHELL`: what shell-form commands are given to; never empty.
    Shell(Vec<Word>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// A variable declared by `ARG`.
#[derive(Debug, Clone, PartialEq)]
pub struct Arg {
    /// Its name; never empty, never expanded.
    pub name: Word,
    /// The value if none is given from outside.
    pub default: Option<Word>,
}

/// A key and a value of `ENV` or `LABEL`; both are expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The key; never empty.
    pub key: Word,
    /// The value.
    pub value: Word,
    /// Whether it was written in the old form, `ENV key value`.
    pub legacy: bool,
}

/// A command line. Neither form is expanded: the shell does that.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `["program", "argument"]`.
    Exec(Vec<Word>),
    /// Text for the shell; may be empty.
    Shell(Word),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// The here-documents that the command line names, in order; empty for the exec form.
    pub heredocs: Vec<Heredoc>,
    /// The values of `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// The value of `--network`.
    pub network: Network,
    /// Whether `--security=insecure` stands there.
    pub insecure: bool,
}

/// What network a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// What the build decides.
    #[default]
    Default,
    /// Nothing but a loopback interface.
    None,
    /// The machine's own.
    Host,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// `--from` (only `COPY`): a stage, its number, a named context or an image. Never expanded.
    pub from: Option<Word>,
    /// Paths, patterns and, for `ADD`, addresses; expanded.
    pub sources: Vec<Word>,
    /// Here-documents among the sources.
    pub heredocs: Vec<Heredoc>,
    /// The destination; expanded.
    pub dest: Word,
    /// `--chown`; expanded.
    pub chown: Option<Word>,
    /// `--chmod`; expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (only `COPY`).
    pub parents: bool,
    /// The values of `--exclude`; not expanded.
    pub exclude: Vec<Word>,
    /// `--checksum` (only `ADD`); expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (only `ADD`), if it was given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (only `ADD`), if it was given.
    pub unpack: Option<bool>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq)]
pub struct Heredoc {
    /// The word that ends it, without quotes; the file's name in `COPY` and `ADD`.
    pub name: String,
    /// Whether the text is expanded in `COPY` and `ADD`: no part of the word was quoted.
    pub expand: bool,
    /// Whether leading tabs are taken away (`<<-`).
    pub chomp: bool,
    /// The lines before the last, as they stand.
    pub content: String,
    /// Where the lines stand, the last included.
    pub span: Span,
}

impl Heredoc {
    /// The text with leading tabs taken away if `<<-` says so.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq)]
pub enum Healthcheck {
    /// `NONE`: takes away what the base image says.
    None,
    /// `CMD`.
    Check {
        /// What runs; not empty.
        command: Command,
        /// The options.
        options: HealthOptions,
    },
}

/// Options of `HEALTHCHECK`; zero means that whoever runs the image decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthOptions {
    /// `--interval`.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`.
    pub retries: u32,
}

/// `ONBUILD`.
#[derive(Debug, Clone, PartialEq)]
pub struct Onbuild {
    /// The text for the image's configuration, here-documents included. Those who build on the image
    /// read it with [`super::parse_trigger`].
    pub expression: String,
    /// The same as an instruction.
    pub trigger: Box<Instruction>,
}

impl Kind {
    /// The name of the instruction, in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

impl Heredoc {
    /// A here-document of which the lines have not been read.
    pub(super) fn announced(name: String, expand: bool, chomp: bool) -> Self {
        Self { name, expand, chomp, content: String::new(), span: Span::default() }
    }
}
