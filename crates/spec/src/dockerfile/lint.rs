//! The checks: warnings under the names of the original's rules, and what turns them off.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::source::Span;

/// A rule of the original's linter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its name; the `code` of its diagnostics.
    pub name: &'static str,
    /// What to do about a violation.
    help: &'static str,
    /// Whether it must be asked for.
    experimental: bool,
}

impl Rule {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, experimental: false }
    }
}

/// The rules, by name.
pub(super) mod rule {
    use super::Rule;

    pub const STAGE_NAME_CASING: Rule = Rule::new("StageNameCasing", "write stage names in lower case");
    pub const FROM_AS_CASING: Rule = Rule::new("FromAsCasing", "write `as` in the case of `from`");
    pub const NO_EMPTY_CONTINUATION: Rule =
        Rule::new("NoEmptyContinuation", "remove the empty line or put a comment there");
    pub const CONSISTENT_INSTRUCTION_CASING: Rule = Rule::new(
        "ConsistentInstructionCasing",
        "write all instructions in upper case, or all in lower case",
    );
    pub const DUPLICATE_STAGE_NAME: Rule = Rule::new("DuplicateStageName", "give each stage its own name");
    pub const RESERVED_STAGE_NAME: Rule = Rule::new("ReservedStageName", "choose another name");
    pub const JSON_ARGS_RECOMMENDED: Rule = Rule::new(
        "JSONArgsRecommended",
        "write [\"program\", \"argument\"] so that signals reach the program",
    );
    pub const MAINTAINER_DEPRECATED: Rule =
        Rule::new("MaintainerDeprecated", "use LABEL org.opencontainers.image.authors=\"...\"");
    pub const UNDEFINED_ARG_IN_FROM: Rule =
        Rule::new("UndefinedArgInFrom", "declare it with ARG before the first FROM");
    pub const WORKDIR_RELATIVE_PATH: Rule = Rule::new("WorkdirRelativePath", "begin with an absolute path");
    pub const UNDEFINED_VAR: Rule = Rule::new("UndefinedVar", "declare it with ARG or ENV first");
    pub const MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule =
        Rule::new("MultipleInstructionsDisallowed", "remove all but the last");
    pub const LEGACY_KEY_VALUE_FORMAT: Rule = Rule::new("LegacyKeyValueFormat", "write key=value");
    pub const INVALID_BASE_IMAGE_PLATFORM: Rule =
        Rule::new("InvalidBaseImagePlatform", "choose an image for the platform, or say FROM --platform");
    pub const REDUNDANT_TARGET_PLATFORM: Rule = Rule::new("RedundantTargetPlatform", "leave --platform out");
    pub const SECRETS_USED_IN_ARG_OR_ENV: Rule =
        Rule::new("SecretsUsedInArgOrEnv", "use RUN --mount=type=secret");
    pub const INVALID_DEFAULT_ARG_IN_FROM: Rule =
        Rule::new("InvalidDefaultArgInFrom", "give the ARG a default that names an image");
    pub const FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule =
        Rule::new("FromPlatformFlagConstDisallowed", "use $BUILDPLATFORM or an ARG");
    pub const COPY_IGNORED_FILE: Rule = Rule::new("CopyIgnoredFile", "change .dockerignore or the source");
    pub const INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
        name: "InvalidDefinitionDescription",
        help: "begin the comment with the name, or put an empty comment below it",
        experimental: true,
    };
    pub const EXPOSE_PROTO_CASING: Rule = Rule::new("ExposeProtoCasing", "write the protocol in lower case");
    pub const EXPOSE_INVALID_FORMAT: Rule =
        Rule::new("ExposeInvalidFormat", "name the container's port alone");

    /// Every rule.
    pub const ALL: [Rule; 22] = [
        STAGE_NAME_CASING,
        FROM_AS_CASING,
        NO_EMPTY_CONTINUATION,
        CONSISTENT_INSTRUCTION_CASING,
        DUPLICATE_STAGE_NAME,
        RESERVED_STAGE_NAME,
        JSON_ARGS_RECOMMENDED,
        MAINTAINER_DEPRECATED,
        UNDEFINED_ARG_IN_FROM,
        WORKDIR_RELATIVE_PATH,
        UNDEFINED_VAR,
        MULTIPLE_INSTRUCTIONS_DISALLOWED,
        LEGACY_KEY_VALUE_FORMAT,
        INVALID_BASE_IMAGE_PLATFORM,
        REDUNDANT_TARGET_PLATFORM,
        SECRETS_USED_IN_ARG_OR_ENV,
        INVALID_DEFAULT_ARG_IN_FROM,
        FROM_PLATFORM_FLAG_CONST_DISALLOWED,
        COPY_IGNORED_FILE,
        INVALID_DEFINITION_DESCRIPTION,
        EXPOSE_PROTO_CASING,
        EXPOSE_INVALID_FORMAT,
    ];
}

/// A choice of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rules {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of these names.
    Named(BTreeSet<String>),
}

impl Rules {
    fn contains(&self, rule: Rule) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.contains(rule.name),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::Named(names) => Some(names),
            Self::None | Self::All => None,
        };
        names.into_iter().flatten().map(String::as_str)
    }

    fn read(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }
}

/// The options of `# check=skip=A,B;error=true;experimental=C`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// Rules that do not warn.
    pub skip: Rules,
    /// Experimental rules that do.
    pub experimental: Rules,
    /// Whether warnings of rules are errors; counts at the head of the file only.
    pub error: bool,
}

impl Check {
    /// Reads the value of a `check` directive.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut check = Self::default();
        for part in text.trim().splitn(3, ';').filter(|_| !text.trim().is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("`{part}` is no check option"));
            };
            match key.trim() {
                "skip" => check.skip = Rules::read(value),
                "experimental" => check.experimental = Rules::read(value),
                "error" => {
                    check.error = super::go::parse_bool(value.trim())
                        .ok_or_else(|| format!("`{value}` is neither true nor false"))?;
                }
                other => return Err(format!("unknown check option `{other}`")),
            }
        }
        Ok(check)
    }

    /// Names that are no rule's.
    pub(super) fn unknown_rules(&self) -> Vec<&str> {
        let named = |name: &&str| rule::ALL.iter().any(|rule| rule.name == *name);
        let all = self.skip.names().chain(self.experimental.names());
        all.filter(|name| !named(name)).collect()
    }
}

/// Puts violations of rules among the diagnostics, unless they are turned off.
pub(super) struct Lint<'a> {
    pub file: &'a Check,
    pub diagnostics: &'a mut Diagnostics,
}

impl Lint<'_> {
    /// Reports a violation found at an instruction with checks of its own.
    pub fn report(&mut self, rule: Rule, own: &Check, span: Span, message: String) {
        let wanted = if rule.experimental {
            self.file.experimental.contains(rule) || own.experimental.contains(rule)
        } else {
            !self.file.skip.contains(rule) && !own.skip.contains(rule)
        };
        if wanted {
            let mut problem = Diagnostic::warning(rule.name, span, message).help(rule.help);
            if self.file.error {
                problem.severity = Severity::Error;
            }
            self.diagnostics.push(problem);
        }
    }
}
