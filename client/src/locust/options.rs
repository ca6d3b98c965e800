//! The settings of users, from the master's options: its host, and the arguments of its locustfile.
//!
//! Arguments are parsed like the flags of `holdfast-client longconn` and `holdfast-client http`. A
//! missing or empty one means the default of the flag.
//! Invariants: every input gives settings, or an error that names the argument.
//! Must not depend on: the wire format, engines.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use holdfast_http1::Limits;
use holdfast_telemetry::units::parse;
use rmpv::Value;

use super::user_class::UserClass;
use crate::http::mix::Mix;
use crate::http::parse_wait;
use crate::http::request::{self, Parts};
use crate::http::request_limit::RequestLimit;
use crate::http::response::{Expectations, parse_statuses};
use crate::http::url::{self, Url};
use crate::http::user::{Model, UserConfig as HttpConfig};
use crate::interned;
use crate::launch::check_duration;
use crate::longconn::message;
use crate::longconn::user::UserConfig as LongconnConfig;
use crate::reconnect::Backoff;
use crate::source::{self, Source};

/// Everything the master says about users except their number.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// The host for all classes.
    pub host: Option<String>,
    /// The host of one class, where the class picker set one.
    pub class_hosts: BTreeMap<UserClass, String>,
    /// All arguments of the master, by name.
    pub arguments: BTreeMap<String, Value>,
}

impl Options {
    /// An argument as text; `None` if it is missing or empty.
    fn text(&self, name: &str) -> Result<Option<String>, anyhow::Error> {
        let text = match self.arguments.get(name) {
            None | Some(Value::Nil) => return Ok(None),
            Some(Value::String(text)) => text.as_str().unwrap_or_default().trim().to_owned(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::F64(number)) => number.to_string(),
            Some(Value::Boolean(value)) => value.to_string(),
            Some(_) => anyhow::bail!(
                "{} is neither text nor a number; next: give it as text",
                flag(name)
            ),
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// An argument parsed by `rule`, or its default.
    fn read<T, E: std::fmt::Display>(
        &self,
        name: &str,
        default: &str,
        rule: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, anyhow::Error> {
        let text = self.text(name)?;
        rule(text.as_deref().unwrap_or(default)).map_err(|e| anyhow::anyhow!("{}: {e}", flag(name)))
    }

    fn time_us(
        &self,
        name: &str,
        default: &str,
        is_zero_allowed: bool,
    ) -> Result<u64, anyhow::Error> {
        let time = self.read(name, default, parse::time)?;
        check_duration(&flag(name), time, is_zero_allowed)
    }

    /// True if the master's locustfile declares any argument of a class. A locustfile written for
    /// Python workers may have a class of the same name.
    pub fn declares(&self, class: UserClass) -> bool {
        let prefix = format!("{}_", class.prefix());
        self.arguments.keys().any(|name| name.starts_with(&prefix))
    }

    /// Locust's `--reset-stats`: statistics begin again when all users are there.
    pub fn resets_stats(&self) -> bool {
        self.arguments.get("reset_stats").and_then(Value::as_bool) == Some(true)
    }

    /// Source addresses, if the master gives any.
    ///
    /// # Errors
    /// The argument and what is wrong with it.
    pub fn source(&self) -> Result<Option<Vec<Source>>, anyhow::Error> {
        let Some(text) = self.text("source")? else {
            return Ok(None);
        };
        let sources = text.split(',').map(|part| source::parse(part.trim()));
        let sources: Result<_, _> = sources.collect();
        sources
            .map(Some)
            .map_err(|e| anyhow::anyhow!("{}: {e}", flag("source")))
    }

    /// Source ports of each address, if the master gives any.
    ///
    /// # Errors
    /// The argument and what is wrong with it.
    pub fn ports(&self) -> Result<Option<RangeInclusive<u16>>, anyhow::Error> {
        self.text("ports")?
            .map(|text| source::parse_ports(&text))
            .transpose()
            .map_err(|e| anyhow::anyhow!("{}: {e}", flag("ports")))
    }

    /// The host of a class: its own argument, else the one of the class picker, else the master's.
    fn host(&self, class: UserClass) -> Result<String, anyhow::Error> {
        let own = self.text(&format!("{}_host", class.prefix()))?;
        let set = self.class_hosts.get(&class).filter(|host| !host.is_empty());
        own.or_else(|| set.cloned())
            .or_else(|| self.host.clone())
            .ok_or_else(|| {
                anyhow::anyhow!(
                    "no host for {}; next: give one in the web form, with --host or with --{}-host",
                    class.name(),
                    class.prefix()
                )
            })
    }

    /// The settings of long connections, and the targets to resolve.
    ///
    /// # Errors
    /// The argument and what is wrong with it.
    pub fn longconn(&self) -> Result<(LongconnConfig, Vec<String>), anyhow::Error> {
        // Here an empty text is a value: every message is right.
        let expect = match self
            .arguments
            .get("longconn_expect")
            .and_then(Value::as_str)
        {
            Some("") => String::new(),
            _ => self
                .text("longconn_expect")?
                .unwrap_or_else(|| "ok".to_owned()),
        };
        let send = self.text("longconn_send")?;
        let first_us = self.time_us("longconn_reconnect_pause", "500ms", false)?;
        let config = LongconnConfig {
            expect: message("--longconn-expect", &expect)?,
            interval_us: self.time_us("longconn_every", "0s", true)?,
            send: match send {
                None => None,
                Some(text) => Some((
                    message("--longconn-send", &text)?,
                    self.time_us("longconn_send_every", "30s", false)?,
                )),
            },
            // Locust restarts the task of a user that has failed.
            reconnect: Some(Backoff {
                first_us,
                longest_us: first_us.max(60_000_000),
            }),
        };
        let targets = self.host(UserClass::LongConn)?;
        let targets = targets
            .split(',')
            .map(|target| host_port(target.trim()).to_owned());
        Ok((config, targets.collect()))
    }

    /// The settings of HTTP users, their URL and method.
    ///
    /// # Errors
    /// The argument and what is wrong with it.
    pub fn http(&self) -> Result<(HttpConfig, Url, String), anyhow::Error> {
        let host = self.host(UserClass::Http)?;
        let path = self.text("http_path")?.unwrap_or_else(|| "/".to_owned());
        let path = path.strip_prefix('/').unwrap_or(&path);
        let scheme = if host.contains("://") { "" } else { "http://" };
        let target = format!(
            "{scheme}{}/{path}",
            host.trim_end_matches('/').replacen("tcp://", "http://", 1)
        );
        let url = url::parse(&target).map_err(|e| anyhow::anyhow!("{target}: {e}"))?;
        let method = self.read("http_method", "GET", request::parse_method)?;
        let body = self.text("http_body")?.map(String::into_bytes);
        let keepalive = self.read("http_keepalive", "true", |text| match text {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("neither yes nor no; next: give one of them"),
        })?;
        let (shortest_us, longest_us) = self.read("http_wait", "100ms..1s", parse_wait)?;
        let expected = self.text("http_expect_body")?;
        let parts = Parts {
            method: method.clone(),
            headers: Vec::new(),
            body,
            is_last: !keepalive,
            count: 1,
        };
        let config = HttpConfig {
            model: Model::Closed(shortest_us, longest_us),
            mix: Mix::one(request::render(&url, &parts)?),
            expectations: Expectations {
                was_head: method == "HEAD",
                limits: Limits::RESPONSE,
                statuses: self.read("http_expect_status", "2xx", parse_statuses)?,
                body: expected.map(|text| interned::keep(text.into_bytes())),
            },
            is_reconnecting: !keepalive,
            // As Locust's own users: it has no other place for it.
            is_connecting_timed: true,
            is_retrying: request::is_idempotent(&method),
            timeout_us: self.time_us("http_timeout", "30s", false)?,
            request_limit: Arc::new(RequestLimit::new(None)),
        };
        Ok((config, url, method))
    }
}

/// An argument as a flag of the master.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Host and port of what may be a URL.
fn host_port(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, Value)]) -> Options {
        Options {
            host: Some("tcp://192.0.2.1:7070".to_owned()),
            arguments: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            ..Options::default()
        }
    }

    #[test]
    fn without_arguments_users_have_the_defaults_of_the_flags() {
        let (config, targets) = options(&[]).longconn().unwrap();
        assert_eq!(
            (config.expect, config.interval_us, targets),
            (&b"ok"[..], 0, vec!["192.0.2.1:7070".to_owned()])
        );
        let (config, url, method) = options(&[("http_wait", Value::Nil)]).http().unwrap();
        assert_eq!(
            (&*url.host_port, &*url.path, &*method),
            ("192.0.2.1:7070", "/", "GET")
        );
        assert!(matches!(config.model, Model::Closed(100_000, 1_000_000)));
        assert!(options(&[]).source().unwrap().is_none());
    }

    #[test]
    fn arguments_reach_the_users() {
        let given = options(&[
            ("longconn_every", 8.into()),
            ("longconn_expect", "".into()),
            ("longconn_host", "10.0.0.1:1,10.0.0.2:2".into()),
            ("http_host", "http://10.0.0.3".into()),
            ("http_path", "x?y=1".into()),
            ("http_wait", "1s..2s".into()),
            ("http_keepalive", false.into()),
            ("source", "127.0.1.1-127.0.1.9, 127.0.3.0/28".into()),
        ]);
        let (config, targets) = given.longconn().unwrap();
        assert_eq!((config.interval_us, config.expect), (8_000_000, &b""[..]));
        assert_eq!(targets, ["10.0.0.1:1", "10.0.0.2:2"]);
        let (config, url, _) = given.http().unwrap();
        assert_eq!((&*url.host_port, &*url.path), ("10.0.0.3:80", "/x?y=1"));
        assert!(
            config.is_reconnecting && matches!(config.model, Model::Closed(1_000_000, 2_000_000))
        );
        assert_eq!(given.source().unwrap().unwrap().len(), 2);
    }

    #[test]
    fn texts_that_are_read_again_take_no_more_memory() {
        let given = options(&[
            ("http_expect_body", "right".into()),
            ("longconn_expect", "right too".into()),
        ]);
        let body = || given.http().unwrap().0.expectations.body.unwrap().as_ptr();
        let request = || given.http().unwrap().0.mix.batch(0).last(1).as_ptr();
        let message = || given.longconn().unwrap().0.expect.as_ptr();
        assert_eq!(
            (body(), request(), message()),
            (body(), request(), message())
        );
    }

    #[test]
    fn host_of_a_class_overrides_the_masters() {
        let mut given = options(&[]);
        given
            .class_hosts
            .insert(UserClass::LongConn, "10.0.0.9:9".to_owned());
        assert_eq!(given.longconn().unwrap().1, ["10.0.0.9:9"]);
        given.host = None;
        assert!(
            given
                .http()
                .unwrap_err()
                .to_string()
                .contains("--http-host")
        );
    }

    #[test]
    fn errors_name_the_argument() {
        for (name, value) in [
            ("longconn_every", Value::from("soon")),
            ("longconn_every", (-3).into()),
            ("longconn_every", Value::Array(vec![])),
            ("longconn_send_every", "x".into()),
            ("longconn_expect", "x".repeat(20_000).into()),
        ] {
            let mut pairs = vec![("longconn_send", "x".into())];
            pairs.push((name, value));
            let error = options(&pairs).longconn().unwrap_err().to_string();
            assert!(
                error.contains(&flag(name)) && error.contains("next:"),
                "{error}"
            );
        }
        for (name, value) in [
            ("http_wait", Value::from("2s..1s")),
            ("http_method", "A B".into()),
            ("http_path", "a b".into()),
            ("http_keepalive", 7.into()),
            ("http_expect_status", "99".into()),
        ] {
            let error = options(&[(name, value)]).http().unwrap_err().to_string();
            assert!(error.contains("next:"), "{name}: {error}");
        }
        assert!(options(&[("source", "x".into())]).source().is_err());
        assert!(options(&[("ports", "0-1".into())]).ports().is_err());
    }
}
