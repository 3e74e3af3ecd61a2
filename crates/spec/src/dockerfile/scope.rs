//! The state of a stage: what variables, directory, user and shell the next instruction meets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Arg, Command, Healthcheck, Instruction, Kind, Pair, Word};
use super::expand::{Expansion, Lexer};
use super::globals::{Environment, Globals};
use super::go;
use super::lint::{Lint, Rule, rule};
use super::path;
use super::step::{Action, Port, Step};
use super::{ports, signal};
use crate::decode::closest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::Span;

/// The search path of images that have none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The shell of images that name none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Most bytes that the variables of a stage may hold.
const MAX_ENVIRONMENT: usize = 16 << 20;
/// Most bytes that the instructions of a stage may expand to.
const MAX_EXPANDED: usize = 256 << 20;
/// Most names that are looked through for a hint.
const MAX_HINTS: usize = 200;
/// Arguments that speak to the builder and no command sees.
const NOT_FOR_COMMANDS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What a stage takes over from the configuration of its base image. The default is that of `scratch`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseConfig {
    /// Variables, in order. If there is no `PATH`, [`DEFAULT_PATH`] is added, to the image's
    /// configuration too.
    pub env: Vec<(String, String)>,
    /// The working directory; `/` if empty.
    pub working_dir: String,
    /// The user; root if empty.
    pub user: String,
    /// The shell for shell-form commands; `/bin/sh -c` if empty.
    pub shell: Vec<String>,
}

/// The state of a stage between two instructions. A clone is a state of its own.
#[derive(Debug, Clone)]
pub struct Scope {
    pub(super) globals: Arc<Globals>,
    /// What commands see: the image's variables and declared arguments.
    pub(super) env: Environment,
    /// What the image keeps.
    image_env: Environment,
    /// The rank and the last value of every declared argument.
    declared: BTreeMap<String, (usize, Option<String>)>,
    pub(super) working_dir: String,
    pub(super) user: String,
    shell: Vec<String>,
    /// Whether this file set the working directory.
    workdir_set: bool,
    /// Where the last instruction of a kind stands that counts once.
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
    /// Bytes of all words expanded so far.
    expanded: usize,
}

/// What stops an instruction: the problem has been reported.
pub(super) struct Reported;

/// An instruction being carried out, and where its problems go.
pub(super) struct Context<'a> {
    pub instruction: &'a Instruction,
    pub diagnostics: &'a mut Diagnostics,
}

impl Context<'_> {
    pub fn lint(&mut self, globals: &Globals, rule: Rule, span: Span, message: String) {
        let mut lint = Lint { file: &globals.check, diagnostics: self.diagnostics };
        lint.report(rule, &self.instruction.check, span, message);
    }

    pub fn error<T>(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> Result<T, Reported> {
        self.diagnostics.push(Diagnostic::error(code, span, message));
        Err(Reported)
    }
}

impl Scope {
    pub(super) fn new(globals: Arc<Globals>, base: &BaseConfig) -> Self {
        let mut image_env = Environment::default();
        for (name, value) in &base.env {
            image_env.set(name, value);
        }
        if image_env.get("PATH").is_none() {
            image_env.set("PATH", DEFAULT_PATH);
        }
        Self {
            globals,
            env: image_env.clone(),
            image_env,
            declared: BTreeMap::new(),
            working_dir: path::join("/", &base.working_dir),
            user: base.user.clone(),
            shell: base.shell.clone(),
            workdir_set: false,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
            expanded: 0,
        }
    }

    /// The scope of a stage that starts from the stage of this scope, after all of whose instructions.
    /// Declared arguments are taken over; variables of the image win against them.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut child = Self { cmd: None, entrypoint: None, healthcheck: None, ..self.clone() };
        for (name, value) in self.image_env.pairs() {
            child.env.set(&name, &value);
        }
        child
    }

    /// The variables of the image, in order.
    pub fn image_env(&self) -> Vec<(String, String)> {
        self.image_env.pairs()
    }

    /// The working directory, absolute and clean.
    pub fn working_dir(&self) -> &str {
        &self.working_dir
    }

    /// Expands an instruction and takes over what it changes. `None` if it cannot be carried out; the
    /// diagnostics say why.
    ///
    /// All words of an instruction see the variables as they were before it, except that each variable of
    /// an `ARG` sees those before it.
    pub fn apply(&mut self, instruction: &Instruction, diagnostics: &mut Diagnostics) -> Option<Step> {
        let mut context = Context { instruction, diagnostics };
        self.step(&mut context).ok()
    }

    fn step(&mut self, context: &mut Context<'_>) -> Result<Step, Reported> {
        let instruction = context.instruction;
        let config = |action: Action, created_by: String| Step { action, created_by, layer: false };
        Ok(match &instruction.kind {
            Kind::Add(transfer) | Kind::Copy(transfer) => self.copy(context, transfer)?,
            Kind::Run(run) => self.run(context, run)?,
            Kind::Arg(args) => {
                let args = self.arg(context, args)?;
                let shown: Vec<String> = args
                    .iter()
                    .map(|(name, value)| match value {
                        Some(value) => format!("{name}={value}"),
                        None => name.clone(),
                    })
                    .collect();
                config(Action::Arg(args), format!("ARG {}", shown.join(" ")))
            }
            Kind::Env(pairs) => {
                let pairs = self.env(context, pairs)?;
                let created_by = format!("ENV{}", shown_pairs(&pairs));
                config(Action::Env(pairs), created_by)
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(context, pairs)?;
                let created_by = format!("LABEL{}", shown_pairs(&pairs));
                config(Action::Label(pairs), created_by)
            }
            Kind::Workdir(word) => self.workdir(context, word)?,
            Kind::User(word) => {
                self.user = self.word(context, word)?;
                config(Action::User(self.user.clone()), format!("USER {}", self.user))
            }
            Kind::Cmd(command) => {
                self.once(context, |scope| &mut scope.cmd);
                let argv = self.argv(context, command);
                let created_by = format!("CMD {}", go::quote_all(&argv));
                config(Action::Cmd(argv), created_by)
            }
            Kind::Entrypoint(command) => {
                self.once(context, |scope| &mut scope.entrypoint);
                let argv = self.argv(context, command);
                let created_by = format!("ENTRYPOINT {}", go::quote_all(&argv));
                config(Action::Entrypoint { argv, drops_cmd: self.cmd.is_none() }, created_by)
            }
            Kind::Shell(words) => {
                self.shell = words.iter().map(|word| word.value.clone()).collect();
                config(Action::Shell(self.shell.clone()), format!("SHELL [{}]", self.shell.join(" ")))
            }
            Kind::Expose(words) => {
                let ports = self.expose(context, words)?;
                let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
                config(Action::Expose(ports), format!("EXPOSE [{}]", shown.join(" ")))
            }
            Kind::Volume(words) => {
                let volumes = self.volumes(context, words)?;
                let created_by = format!("VOLUME [{}]", volumes.join(" "));
                config(Action::Volume(volumes), created_by)
            }
            Kind::Stopsignal(word) => {
                let name = self.word(context, word)?;
                if !signal::is_signal(&name) {
                    return context.error("invalid-signal", word.span, format!("`{name}` is no signal"));
                }
                config(Action::Stopsignal(name.clone()), format!("STOPSIGNAL {name}"))
            }
            Kind::Healthcheck(check) => {
                self.once(context, |scope| &mut scope.healthcheck);
                health(check)
            }
            Kind::Onbuild(onbuild) => Step {
                action: Action::Onbuild(onbuild.expression.clone()),
                created_by: format!("ONBUILD {}", onbuild.expression),
                layer: false,
            },
            Kind::Maintainer(word) => {
                config(Action::Maintainer(word.value.clone()), format!("MAINTAINER {}", word.value))
            }
        })
    }

    /// Expands a word; variables that are not set are reported.
    pub(super) fn word(&mut self, context: &mut Context<'_>, word: &Word) -> Result<String, Reported> {
        self.text(context, &word.value, word.span)
    }

    /// Expands a text that stands at `span`.
    pub(super) fn text(
        &mut self,
        context: &mut Context<'_>,
        text: &str,
        span: Span,
    ) -> Result<String, Reported> {
        let lexer = Lexer::new(self.globals.escape);
        let found = self.expanded(context, text, span, lexer)?;
        self.warn_of_unset(context, &found, span);
        Ok(found.text)
    }

    /// Expands a here-document: quotes have no meaning, and the escape character is always `\`.
    pub(super) fn document(&mut self, context: &mut Context<'_>, text: &str) -> Result<String, Reported> {
        let lexer = Lexer { ignore_quotes: true, ..Lexer::new('\\') };
        let span = context.instruction.keyword.span;
        let found = self.expanded(context, text, span, lexer)?;
        self.warn_of_unset(context, &found, span);
        Ok(found.text)
    }

    fn expanded(
        &mut self,
        context: &mut Context<'_>,
        text: &str,
        span: Span,
        lexer: Lexer,
    ) -> Result<Expansion, Reported> {
        let found = match lexer.words(text, &self.env) {
            Ok(found) => found,
            Err(error) => return context.error("invalid-word", span, error.to_string()),
        };
        self.expanded += found.text.len();
        if self.expanded > MAX_EXPANDED {
            let message = format!("the stage expands to more than {MAX_EXPANDED} bytes");
            return context.error("too-large", span, message);
        }
        Ok(found)
    }

    fn warn_of_unset(&self, context: &mut Context<'_>, found: &Expansion, span: Span) {
        let declared = |name: &String| self.declared.contains_key(name);
        for name in found.unmatched.iter().filter(|name| !declared(name)) {
            if NOT_FOR_COMMANDS.contains(&name.as_str()) || context.diagnostics.is_full() {
                continue;
            }
            let known: Vec<&str> = self.env.names().take(MAX_HINTS).collect();
            let hint = closest(name, &known).map(|close| format!(" (did you mean `${close}`?)"));
            let message = format!("the variable `${name}` is not set{}", hint.unwrap_or_default());
            context.lint(&self.globals, rule::UNDEFINED_VAR, span, message);
        }
    }

    fn set(&mut self, context: &mut Context<'_>, name: &str, value: &str) -> Result<(), Reported> {
        self.env.set(name, value);
        if self.env.bytes() > MAX_ENVIRONMENT {
            let message = format!("the variables hold more than {MAX_ENVIRONMENT} bytes");
            return context.error("too-large", context.instruction.span, message);
        }
        Ok(())
    }

    fn pairs(
        &mut self,
        context: &mut Context<'_>,
        pairs: &[Pair],
    ) -> Result<Vec<(String, String)>, Reported> {
        let name = context.instruction.kind.name();
        let mut expanded = Vec::new();
        for pair in pairs {
            if pair.legacy {
                let message = format!("`{name} key value` is the old form");
                let globals = Arc::clone(&self.globals);
                context.lint(&globals, rule::LEGACY_KEY_VALUE_FORMAT, context.instruction.span, message);
            }
            let key = self.word(context, &pair.key)?;
            expanded.push((key, self.word(context, &pair.value)?));
        }
        Ok(expanded)
    }

    fn env(&mut self, context: &mut Context<'_>, pairs: &[Pair]) -> Result<Vec<(String, String)>, Reported> {
        let expanded = self.pairs(context, pairs)?;
        for ((name, value), pair) in expanded.iter().zip(pairs) {
            if name.is_empty() {
                return context.error("missing-name", pair.key.span, "the name of the variable is empty");
            }
            self.warn_of_secret(context, "ENV", name, pair.key.span);
            self.set(context, name, value)?;
            self.image_env.set_in_place(name, value);
        }
        Ok(expanded)
    }

    /// Each argument takes the value given from outside, else its default, else that of the global
    /// argument of its name.
    fn arg(
        &mut self,
        context: &mut Context<'_>,
        args: &[Arg],
    ) -> Result<Vec<(String, Option<String>)>, Reported> {
        let globals = Arc::clone(&self.globals);
        let mut declared = Vec::new();
        for arg in args {
            let name = arg.name.value.clone();
            self.warn_of_secret(context, "ARG", &name, arg.name.span);
            let value = match (globals.build_args.get(&name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.word(context, default)?),
                (None, None) => globals.variables.get(&name).map(str::to_owned),
            };
            if let Some(value) = value.as_ref().filter(|_| !NOT_FOR_COMMANDS.contains(&name.as_str())) {
                self.set(context, &name, value)?;
            }
            let rank = self.declared.get(&name).map_or(self.declared.len(), |(rank, _)| *rank);
            self.declared.insert(name.clone(), (rank, value.clone()));
            declared.push((name, value));
        }
        Ok(declared)
    }

    fn warn_of_secret(&self, context: &mut Context<'_>, instruction: &str, name: &str, span: Span) {
        if looks_secret(name) {
            let message = format!("{instruction} `{name}` looks like a secret, and the image shows it");
            context.lint(&self.globals, rule::SECRETS_USED_IN_ARG_OR_ENV, span, message);
        }
    }

    fn workdir(&mut self, context: &mut Context<'_>, word: &Word) -> Result<Step, Reported> {
        let dir = self.word(context, word)?;
        if !self.workdir_set && !dir.starts_with('/') {
            let message = format!("`{dir}` depends on the working directory of the base image");
            let globals = Arc::clone(&self.globals);
            context.lint(&globals, rule::WORKDIR_RELATIVE_PATH, word.span, message);
        }
        self.workdir_set = true;
        self.working_dir = path::join(&self.working_dir, &dir);
        Ok(Step {
            action: Action::Workdir(self.working_dir.clone()),
            created_by: format!("WORKDIR {}", self.working_dir),
            layer: self.working_dir != "/",
        })
    }

    /// The argument vector of `CMD` or `ENTRYPOINT`.
    fn argv(&mut self, context: &mut Context<'_>, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
            Command::Shell(line) => {
                if self.shell.is_empty() {
                    let name = context.instruction.kind.name();
                    let message = format!("{name} in shell form keeps signals from the program");
                    let globals = Arc::clone(&self.globals);
                    context.lint(&globals, rule::JSON_ARGS_RECOMMENDED, context.instruction.span, message);
                }
                self.with_shell(line.value.clone())
            }
        }
    }

    pub(super) fn with_shell(&self, line: String) -> Vec<String> {
        let default = || DEFAULT_SHELL.map(str::to_owned).to_vec();
        let mut argv = if self.shell.is_empty() { default() } else { self.shell.clone() };
        argv.push(line);
        argv
    }

    /// Only the last instruction of some kinds counts.
    fn once(&mut self, context: &mut Context<'_>, last: impl Fn(&mut Self) -> &mut Option<Span>) {
        let instruction = context.instruction;
        if let Some(before) = last(self).replace(instruction.span) {
            let message = format!("another {} follows, so this one does not count", instruction.kind.name());
            let globals = Arc::clone(&self.globals);
            context.lint(&globals, rule::MULTIPLE_INSTRUCTIONS_DISALLOWED, before, message);
        }
    }

    fn expose(&mut self, context: &mut Context<'_>, words: &[Word]) -> Result<Vec<Port>, Reported> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let mut all = Vec::new();
        for word in sorted {
            let lexer = Lexer::new(self.globals.escape);
            // As in the original, variables that are not set are not reported here.
            for port in self.expanded(context, &word.value, word.span, lexer)?.words {
                match ports::parse(&port) {
                    Ok((ports, broken)) => {
                        for rule in broken {
                            let message = format!("`{port}` is an unusual way to name a port");
                            let globals = Arc::clone(&self.globals);
                            context.lint(&globals, rule, word.span, message);
                        }
                        all.extend(ports);
                    }
                    Err(reason) => return context.error("invalid-port", word.span, reason),
                }
                if all.len() > ports::MAX_PORTS {
                    return context.error("too-large", word.span, "more ports than there are");
                }
            }
        }
        Ok(all)
    }

    fn volumes(&mut self, context: &mut Context<'_>, words: &[Word]) -> Result<Vec<String>, Reported> {
        let mut volumes = Vec::new();
        for word in words {
            let trimmed = Word::new(word.trim().to_owned(), word.span);
            let volume = self.word(context, &trimmed)?;
            if volume.is_empty() {
                return context.error("invalid-volume", word.span, "a volume needs a path");
            }
            volumes.push(volume);
        }
        Ok(volumes)
    }

    /// Declared arguments as the history of a command shows them: each name once, in the order of
    /// declaration, with what the command sees.
    pub(super) fn shown_args(&self) -> Vec<String> {
        let mut ranked: Vec<_> = self.declared.iter().collect();
        ranked.sort_by_key(|(_, (rank, _))| *rank);
        let shown = |(name, (_, value)): (&String, &(usize, Option<String>))| {
            format!("{name}={}", self.env.get(name).or(value.as_deref()).unwrap_or_default())
        };
        ranked.into_iter().map(shown).collect()
    }
}

fn shown_pairs(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(key, value)| format!(" {key}={value}")).collect()
}

fn health(check: &Healthcheck) -> Step {
    let (test, options) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], super::ast::HealthOptions::default()),
        Healthcheck::Check { command: Command::Exec(words), options } => {
            let words = words.iter().map(|word| word.value.clone());
            (std::iter::once("CMD".to_owned()).chain(words).collect(), *options)
        }
        Healthcheck::Check { command: Command::Shell(line), options } => {
            (vec!["CMD-SHELL".to_owned(), line.value.clone()], *options)
        }
    };
    let created_by = format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        test.join(" "),
        go::duration(options.interval),
        go::duration(options.timeout),
        go::duration(options.start_period),
        go::duration(options.start_interval),
        options.retries
    );
    Step { action: Action::Healthcheck { test, check: check.clone() }, created_by, layer: false }
}

/// Whether a name has a word that secrets have, and none that says otherwise.
fn looks_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |known: &[&str]| name.split('_').any(|part| known.contains(&part.to_lowercase().as_str()));
    has(&SECRET) && !has(&HARMLESS)
}
