//! Platforms such as `linux/arm64/v8`.

use std::fmt;

/// What an image runs on, in normal form: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub arch: String,
    /// Variant of the architecture; empty for the usual one.
    pub variant: String,
}

/// Text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no platform")]
pub struct InvalidPlatform(pub String);

const SYSTEMS: [&str; 12] = [
    "linux",
    "windows",
    "darwin",
    "freebsd",
    "netbsd",
    "openbsd",
    "dragonfly",
    "solaris",
    "illumos",
    "aix",
    "plan9",
    "android",
];
const ARCHITECTURES: [&str; 14] = [
    "amd64", "arm64", "arm", "386", "ppc64le", "ppc64", "s390x", "riscv64", "loong64", "mips64le", "mips64",
    "mipsle", "mips", "wasm",
];

impl Platform {
    /// A platform of the given parts, brought into normal form.
    pub fn new(os: &str, arch: &str, variant: &str) -> Self {
        let (arch, variant) = normal(&arch.to_lowercase(), &variant.to_lowercase());
        let os = os.to_lowercase();
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        Self { os, arch, variant }
    }

    /// Reads `os`, `arch`, `os/arch` or `os/arch/variant`; what is missing comes from `default`.
    ///
    /// # Errors
    /// [`InvalidPlatform`].
    pub fn parse(text: &str, default: &Self) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.chars().take(100).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |part: &&str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        };
        if !parts.iter().all(fits) {
            return Err(invalid());
        }
        match parts.as_slice() {
            [os] if SYSTEMS.contains(&os.to_lowercase().as_str()) || os.eq_ignore_ascii_case("macos") => {
                Ok(Self::new(os, &default.arch, &default.variant))
            }
            [arch] => {
                let platform = Self::new(&default.os, arch, "");
                let known = ARCHITECTURES.contains(&platform.arch.as_str());
                if known { Ok(platform.without_usual_variant()) } else { Err(invalid()) }
            }
            [os, arch] => Ok(Self::new(os, arch, "").without_usual_variant()),
            [os, arch, variant] => {
                let platform = Self::new(os, arch, variant);
                let usual = platform.arch == "arm64" && platform.variant.is_empty();
                Ok(if usual { Self { variant: "v8".to_owned(), ..platform } } else { platform })
            }
            _ => Err(invalid()),
        }
    }

    fn without_usual_variant(self) -> Self {
        let usual = self.arch == "arm" && self.variant == "v7";
        if usual { Self { variant: String::new(), ..self } } else { self }
    }
}

/// Other spellings of architectures and variants.
fn normal(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (arch.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}
