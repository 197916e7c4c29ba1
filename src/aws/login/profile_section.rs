//! A profile for one role, written into the AWS configuration file.

use std::{
    env, fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{Center, LoginError};
use crate::aws::{partition, private_file};

/// A section `[profile NAME]` that takes a role of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileSection {
    /// How `--profile` names it.
    pub(crate) name: String,
    /// Twelve digits.
    pub(crate) account: String,
    /// The role, as the portal names it.
    pub(crate) role: String,
    /// Where its targets are; without one, something else must say it.
    pub(crate) region: Option<String>,
}

impl ProfileSection {
    /// Whether all parts have their form: nothing may end a line or a section.
    ///
    /// # Errors
    /// Which has not, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_word = |text: &str, more: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            !text.is_empty() && text.len() <= 128 && text.bytes().all(fits)
        };
        if !is_word(&self.name, b"_-./@+:") {
            return Err(format!(
                "`{}` cannot be the name of a profile: use letters, digits and _ - . / @ + :",
                self.name
            ));
        }
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("`{}` is not an account: they have twelve digits", self.account));
        }
        if !is_word(&self.role, b"_+=,.@-") {
            return Err(format!("`{}` is not the name of a role", self.role));
        }
        match &self.region {
            Some(region) if !partition::is_label(region) => Err(format!("`{region}` is not the name of a region")),
            _ => Ok(()),
        }
    }

    /// Adds it to the end of the configuration file, all of which stays as it is. Returns the file's path.
    ///
    /// # Errors
    /// [`Configuration`](LoginError::Configuration) if there is such a profile already,
    /// [`File`](LoginError::File).
    pub(crate) async fn write(&self, center: &Center) -> Result<PathBuf, LoginError> {
        let profiles = crate::aws::profiles().await.ok();
        if profiles.is_some_and(|profiles| profiles.get_profile(&self.name).is_some()) {
            return Err(LoginError::Configuration {
                message: format!("there is a profile `{}` already", self.name),
                remedy: "choose another name, or remove that profile first".to_owned(),
            });
        }
        let path = config_file()?;
        let failed = |source| LoginError::File { doing: "write", path: path.clone(), source };
        append(&path, &self.text(center)).map_err(failed)?;
        Ok(path)
    }

    fn text(&self, center: &Center) -> String {
        let heading = if self.name == "default" { "default".to_owned() } else { format!("profile {}", self.name) };
        let login = match center.session() {
            Some(session) => format!("sso_session = {session}\n"),
            None => format!("sso_start_url = {}\nsso_region = {}\n", center.start_url(), center.region()),
        };
        let region = self.region.as_ref().map_or_else(String::new, |region| format!("region = {region}\n"));
        let Self { account, role, .. } = self;
        format!("[{heading}]\n{login}sso_account_id = {account}\nsso_role_name = {role}\n{region}")
    }
}

/// Where the SDK looks for it.
fn config_file() -> Result<PathBuf, LoginError> {
    let Some(named) = env::var_os("AWS_CONFIG_FILE").filter(|path| !path.is_empty()) else {
        return Ok(private_file::home().ok_or(LoginError::NoHome)?.join(".aws").join("config"));
    };
    let path = PathBuf::from(named);
    match path.strip_prefix("~") {
        Ok(below_home) => Ok(private_file::home().ok_or(LoginError::NoHome)?.join(below_home)),
        Err(_) => Ok(path),
    }
}

/// Adds a section. In place, so that links, owner and mode stay; in one piece, after what is there.
fn append(path: &Path, section: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let gap = match (length, last) {
        (0, _) => "",
        (_, [b'\n']) => "\n",
        _ => "\n\n",
    };
    file.write_all(format!("{gap}{section}").as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, region: Option<&str>) -> ProfileSection {
        ProfileSection {
            name: name.to_owned(),
            account: "111122223333".to_owned(),
            role: "Ops".to_owned(),
            region: region.map(str::to_owned),
        }
    }

    #[test]
    fn a_section_says_what_the_sdk_asks_for() {
        assert_eq!(
            section("dev", Some("us-east-1")).text(&Center::for_test(Some("corp"))),
            "[profile dev]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = Ops\nregion = us-east-1\n"
        );
        assert_eq!(
            section("default", None).text(&Center::for_test(None)),
            "[default]\nsso_start_url = https://d-0123456789.awsapps.com/start\nsso_region = eu-west-1\n\
             sso_account_id = 111122223333\nsso_role_name = Ops\n"
        );
    }

    #[test]
    fn nothing_can_break_out_of_its_line() {
        assert_eq!(section("dev", Some("eu-west-1")).check(), Ok(()));
        for name in ["", "a b", "a]\n[b", "a\nregion = x", "ü"] {
            assert!(section(name, None).check().is_err(), "{name}");
        }
        assert!(section("a", Some("x\ny = z")).check().is_err());
        for account in ["", "1234", "11112222333x", "1111222233334"] {
            let section = ProfileSection { account: account.to_owned(), ..section("a", None) };
            assert!(section.check().is_err(), "{account}");
        }
        assert!(ProfileSection { role: "a b".to_owned(), ..section("a", None) }.check().is_err());
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join("config");
        for (before, after) in
            [(None, "[x]\n"), (Some("[a]\nb = c"), "[a]\nb = c\n\n[x]\n"), (Some("# é\n"), "# é\n\n[x]\n")]
        {
            if let Some(before) = before {
                fs::write(&path, before).expect("written");
            }
            append(&path, "[x]\n").expect("appended");
            assert_eq!(fs::read_to_string(&path).expect("a file"), after);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&path, &link).expect("a link");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
            append(&link, "[y]\n").expect("appended");
            assert_eq!(mode(&path), 0o640);
            assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
            assert!(fs::read_to_string(&path).expect("a file").ends_with("\n\n[y]\n"));
        }
    }
}
