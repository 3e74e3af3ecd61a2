//! Options that are lists of fields, such as `type=oci,dest=app.tar`, read as `docker buildx` reads them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::failure::Failure;

/// The fields of one option. Each is taken once; what is left over was not understood.
pub struct Fields {
    option: &'static str,
    text: String,
    fields: BTreeMap<String, String>,
}

impl Fields {
    /// Reads `NAME=VALUE,...`; a field with a comma in it stands in double quotes. A name alone means `true`.
    ///
    /// # Errors
    /// [`Failure`] that shows the option.
    pub fn parse(option: &'static str, text: &str) -> Result<Self, Failure> {
        let mut fields = BTreeMap::new();
        for field in split(text).ok_or_else(|| wrong(option, text, "a quote is not closed"))? {
            let (name, value) = field.split_once('=').unwrap_or((&field, "true"));
            let name = name.trim().to_lowercase();
            if name.is_empty() {
                return Err(wrong(option, text, "a field has no name"));
            }
            if fields.insert(name.clone(), value.to_owned()).is_some() {
                return Err(wrong(option, text, &format!("`{name}` is given twice")));
            }
        }
        Ok(Self { option, text: text.to_owned(), fields })
    }

    /// Takes the value of the first of these names that is there.
    pub fn take(&mut self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.fields.remove(*name))
    }

    /// Takes a value that must be there.
    ///
    /// # Errors
    /// [`Failure`] that names the missing field.
    pub fn need(&mut self, names: &[&str]) -> Result<String, Failure> {
        let missing = format!("`{}` is missing", names[0]);
        self.take(names).filter(|value| !value.is_empty()).ok_or_else(|| self.wrong(&missing))
    }

    /// Takes a value that is true or false.
    ///
    /// # Errors
    /// [`Failure`] if it is neither.
    pub fn flag(&mut self, name: &str, otherwise: bool) -> Result<bool, Failure> {
        match self.take(&[name]).as_deref() {
            None => Ok(otherwise),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(self.wrong(&format!("`{name}` is true or false, not `{other}`"))),
        }
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    /// [`Failure`] that names it and what there is.
    pub fn end(self, known: &str) -> Result<(), Failure> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(&format!("`{name}` is not known; there are {known}"))),
        }
    }

    /// A failure about this option.
    pub fn wrong(&self, problem: &str) -> Failure {
        wrong(self.option, &self.text, problem)
    }
}

fn wrong(option: &str, text: &str, problem: &str) -> Failure {
    Failure::input(format!("{option} `{text}`: {problem}"))
}

/// Fields between commas; a field in double quotes may hold commas, and a doubled quote there is one.
fn split(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

/// `NAME=VALUE`, or a name whose value the environment has; none if it has not.
///
/// # Errors
/// [`Failure`] for a text without a name.
pub fn build_arg(text: &str) -> Result<Option<(String, String)>, Failure> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() {
        return Err(wrong("--build-arg", text, "it has no name"));
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

/// A secret by id.
///
/// # Errors
/// [`Failure`] if it is not understood or cannot be read.
pub fn secret(text: &str) -> Result<(String, Vec<u8>), Failure> {
    let mut fields = Fields::parse("--secret", text)?;
    let kind = fields.take(&["type"]).unwrap_or_default();
    let id = fields.take(&["id"]);
    let file = fields.take(&["src", "source"]);
    let variable = fields.take(&["env"]);
    let id = id.ok_or_else(|| fields.wrong("`id` is missing"))?;
    let value = match (kind.as_str(), file, variable) {
        ("" | "file", Some(file), None) => std::fs::read(&file)
            .map_err(|error| fields.wrong(&format!("`{file}` cannot be read: {error}")))?,
        ("" | "env", None, Some(name)) => environment(&fields, &name)?,
        ("env", Some(name), None) => environment(&fields, &name)?,
        ("" | "file" | "env", None, None) => match (std::env::var_os(&id), kind.as_str()) {
            (Some(_), "" | "env") => environment(&fields, &id)?,
            _ => std::fs::read(&id)
                .map_err(|_| fields.wrong("it names neither a file (src) nor a variable (env)"))?,
        },
        ("" | "file" | "env", ..) => return Err(fields.wrong("it names a file and a variable; name one")),
        (other, ..) => return Err(fields.wrong(&format!("there is no type `{other}`; use file or env"))),
    };
    fields.end("id, type, src and env")?;
    Ok((id, value))
}

fn environment(fields: &Fields, name: &str) -> Result<Vec<u8>, Failure> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(name);
    value.map(OsStringExt::into_vec).ok_or_else(|| fields.wrong(&format!("the variable `{name}` is not set")))
}

/// An agent's socket by id: `default`, or `ID=SOCKET`.
///
/// # Errors
/// [`Failure`] if there is no agent.
pub fn agent(text: &str) -> Result<(String, PathBuf), Failure> {
    let (id, socket) = match text.split_once('=') {
        Some((id, socket)) => (id, Some(PathBuf::from(socket))),
        None => (text, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)),
    };
    let socket = socket.ok_or_else(|| {
        wrong("--ssh", text, "no agent is running (SSH_AUTH_SOCK is not set); start one or name its socket")
    })?;
    Ok((if id.is_empty() { "default".to_owned() } else { id.to_owned() }, socket))
}

/// A machine's name and its address: `NAME:ADDRESS` or `NAME=ADDRESS`, an address of IPv6 with or without brackets.
///
/// `host-gateway` is this machine. Commands share its network, so that is the loopback interface.
///
/// # Errors
/// [`Failure`] if it is not understood.
pub fn host(text: &str) -> Result<(String, IpAddr), Failure> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let parts = parts.filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace));
    let (name, address) = parts.ok_or_else(|| {
        wrong("--add-host", text, "write NAME:ADDRESS, such as db:10.0.0.5 or db:host-gateway")
    })?;
    let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = match plain {
        "host-gateway" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        plain => plain
            .parse()
            .map_err(|_| wrong("--add-host", text, &format!("`{address}` is no address of IPv4 or IPv6")))?,
    };
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_buildx_reads_them() {
        for (text, name, address) in [
            ("db:10.0.0.5", "db", "10.0.0.5"),
            ("db=10.0.0.5", "db", "10.0.0.5"),
            ("db:::1", "db", "::1"),
            ("db:[fd00::1]", "db", "fd00::1"),
            ("db=[fd00::1]", "db", "fd00::1"),
            ("here:host-gateway", "here", "127.0.0.1"),
        ] {
            assert_eq!(host(text).unwrap(), (name.to_owned(), address.parse().unwrap()), "{text}");
        }
        for bad in ["", "db", ":1.2.3.4", "db:", "db:1.2.3", "a b:1.2.3.4", "db:[::1", "db:other"] {
            assert!(host(bad).unwrap_err().message.contains("--add-host"), "{bad}");
        }
    }

    #[test]
    fn fields_are_read_as_buildx_reads_them() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let fields = Fields::parse("-o", text).map(|fields| fields.fields).unwrap();
            let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(fields.into_iter().collect::<Vec<_>>(), expected, "{text}");
        };
        check("type=oci,dest=a.tar", &[("dest", "a.tar"), ("type", "oci")]);
        check("type=image,push", &[("push", "true"), ("type", "image")]);
        check(r#"type=image,"name=a,b""#, &[("name", "a,b"), ("type", "image")]);
        check("a=b=c", &[("a", "b=c")]);
        for bad in ["", "=x", "a=1,a=2", "\"a=1"] {
            assert!(Fields::parse("-o", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let mut fields = Fields::parse("-o", "type=oci,colour=red").unwrap();
        assert_eq!(fields.take(&["type"]).as_deref(), Some("oci"));
        assert!(fields.end("type").unwrap_err().message.contains("`colour` is not known"));
    }

    #[test]
    fn secrets_come_from_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"hush\0").unwrap();
        let text = format!("id=s,src={}", file.path().display());
        assert_eq!(secret(&text).unwrap(), ("s".to_owned(), b"hush\0".to_vec()));
        for bad in ["src=x", "id=s,src=/nowhere/at/all", "id=s,env=QUERN_TEST_NOT_SET", "id=s,colour=red"] {
            assert!(secret(bad).is_err(), "{bad}");
        }
    }
}
