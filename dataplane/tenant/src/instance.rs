//! Which daemon: the instance's name gives the path of its control socket. The daemon has the same rule.

use std::{env, path::PathBuf};

use crate::Error;

/// Environment variable that names the instance.
const VARIABLE: &str = "AFNET_INSTANCE";

/// Control socket of `instance`, of `AFNET_INSTANCE` if that is `None`, of the default instance if there is none:
/// `/run/afnet/afnetd.sock`, or `/run/afnet-NAME/afnetd.sock`. The names `""` and `default` are the default instance.
///
/// # Errors
/// [`Error::Instance`] if the name is none: 1 to 32 letters, digits, `_` or `-`, not starting with `-`.
pub fn socket_path(instance: Option<&str>) -> Result<PathBuf, Error> {
    Ok(match chosen(instance)?.as_str() {
        "default" => PathBuf::from("/run/afnet/afnetd.sock"),
        name => PathBuf::from(format!("/run/afnet-{name}/afnetd.sock")),
    })
}

/// Name of the same instance's abstract socket: `afnet/NAME`, without the leading zero.
pub(crate) fn abstract_name(instance: Option<&str>) -> Result<String, Error> {
    Ok(format!("afnet/{}", chosen(instance)?))
}

/// The checked name, `default` for the default instance.
fn chosen(instance: Option<&str>) -> Result<String, Error> {
    let variable;
    let name = match instance {
        Some(name) => name,
        None => {
            variable = env::var(VARIABLE).unwrap_or_default();
            &variable
        }
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() {
        Ok("default".to_owned())
    } else if name.len() <= 32 && name.bytes().all(good) && !name.starts_with('-') {
        Ok(name.to_owned())
    } else {
        Err(Error::Instance(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_names_its_socket() {
        let path = |name: &str| socket_path(Some(name)).unwrap().into_os_string().into_string().unwrap();
        assert_eq!(path(""), "/run/afnet/afnetd.sock");
        assert_eq!(path("default"), "/run/afnet/afnetd.sock");
        assert_eq!(path("blue-1"), "/run/afnet-blue-1/afnetd.sock");
        for bad in ["-a", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(matches!(socket_path(Some(bad)), Err(Error::Instance(_))), "{bad}");
        }
    }
}
