//! What users are to do, from what the master says: its host, and the arguments of its locustfile.
//!
//! Arguments are read by the same expectations as the flags of `holdfast-client longconn` and `holdfast-client http`. One that is missing or
//! empty is what the flag is without being given.
//! Invariants: whatever the master sends, the answer is settings or one line that names the argument.
//! Must not know: the wire, engines.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use holdfast_http1::Limits;
use rmpv::Value;

use super::class::Class;
use crate::http::parse_wait;
use crate::http::request::{self, Parts};
use crate::http::request_limit::RequestLimit;
use crate::http::response::{Expectations, parse_statuses};
use crate::http::url::{self, Url};
use crate::http::user::{Model, UserConfig as HttpConfig};
use crate::launch::check_duration;
use crate::longconn::message;
use crate::longconn::user::UserConfig as LongconnConfig;
use crate::reconnect::Backoff;
use crate::source::{self, Source};

/// Everything the master says about users but their number.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// The host for all classes.
    pub host: Option<String>,
    /// The host of one class, by its name.
    pub class_hosts: BTreeMap<String, String>,
    /// The master's arguments.
    pub arguments: BTreeMap<String, Value>,
}

/// One line that names the argument.
type Wrong = anyhow::Error;

impl Options {
    /// An argument as text; `None` if it is missing or empty.
    fn text(&self, name: &str) -> Result<Option<String>, Wrong> {
        let text = match self.arguments.get(name) {
            None | Some(Value::Nil) => return Ok(None),
            Some(Value::String(text)) => text.as_str().unwrap_or_default().trim().to_owned(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::F64(number)) => number.to_string(),
            Some(Value::Boolean(value)) => value.to_string(),
            Some(_) => anyhow::bail!(
                "{} is neither text nor a number; next: give it as text",
                said(name)
            ),
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// An argument read by a rule, or what it is without being given.
    fn read<T, E: std::fmt::Display>(
        &self,
        name: &str,
        default: &str,
        rule: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Wrong> {
        let text = self.text(name)?;
        rule(text.as_deref().unwrap_or(default)).map_err(|e| anyhow::anyhow!("{}: {e}", said(name)))
    }

    fn time_us(&self, name: &str, default: &str, is_zero_allowed: bool) -> Result<u64, Wrong> {
        let time = self.read(name, default, |text| {
            humantime::parse_duration(text)
                .map_err(|e| format!("not a time ({e}); next: give one such as 500ms or 30s"))
        })?;
        check_duration(&said(name), time, is_zero_allowed)
    }

    /// The argument of Locust that says whether statistics begin anew when all users are there.
    pub fn resets_stats(&self) -> bool {
        self.arguments.get("reset_stats").and_then(Value::as_bool) == Some(true)
    }

    /// Where connections come from, if the master says so.
    ///
    /// # Errors
    /// One line that names the argument.
    pub fn source(&self) -> Result<Option<Vec<Source>>, Wrong> {
        let Some(text) = self.text("source")? else {
            return Ok(None);
        };
        let sources = text.split(',').map(|part| source::parse(part.trim()));
        let sources: Result<_, _> = sources.collect();
        sources
            .map(Some)
            .map_err(|e| anyhow::anyhow!("{}: {e}", said("source")))
    }

    /// Source ports of each address, if the master says so.
    ///
    /// # Errors
    /// One line that names the argument.
    pub fn ports(&self) -> Result<Option<RangeInclusive<u16>>, Wrong> {
        self.text("ports")?
            .map(|text| source::parse_ports(&text))
            .transpose()
            .map_err(|e| anyhow::anyhow!("{}: {e}", said("ports")))
    }

    /// The host of a class: its own argument, what was set for the class, or the one for all.
    fn host(&self, class: Class) -> Result<String, Wrong> {
        let own = self.text(&format!("{}_host", class.prefix()))?;
        let set = self
            .class_hosts
            .get(class.name())
            .filter(|host| !host.is_empty());
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

    /// What long connections do, and the targets to resolve.
    ///
    /// # Errors
    /// One line that names what is wrong.
    pub fn longconn(&self) -> Result<(LongconnConfig, Vec<String>), Wrong> {
        // Empty is a wish here: anything is right.
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
            // A user of Locust begins again when it has failed.
            reconnect: Some(Backoff {
                first_us,
                longest_us: first_us.max(60_000_000),
            }),
        };
        let targets = self.host(Class::LongConn)?;
        let targets = targets
            .split(',')
            .map(|target| host_port(target.trim()).to_owned());
        Ok((config, targets.collect()))
    }

    /// What HTTP users do, their URL and method, and what they wait on average, microseconds.
    ///
    /// # Errors
    /// One line that names what is wrong.
    pub fn http(&self) -> Result<(HttpConfig, Url, String), Wrong> {
        let host = self.host(Class::Http)?;
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
            batch: request::render(&url, &parts)?,
            expectations: Expectations {
                was_head: method == "HEAD",
                limits: Limits::default(),
                statuses: self.read("http_expect_status", "2xx", parse_statuses)?,
                body: expected.map(|text| &*text.into_bytes().leak()),
            },
            is_reconnecting: !keepalive,
            is_retrying: request::is_idempotent(&method),
            timeout_us: self.time_us("http_timeout", "30s", false)?,
            request_limit: Arc::new(RequestLimit::new(None)),
        };
        Ok((config, url, method))
    }
}

/// An argument as it is typed.
fn said(name: &str) -> String {
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
    fn nothing_said_is_what_the_flags_are() {
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
    fn what_is_said_reaches_the_users() {
        let said = options(&[
            ("longconn_every", "8s".into()),
            ("longconn_expect", "".into()),
            ("longconn_host", "10.0.0.1:1,10.0.0.2:2".into()),
            ("http_host", "http://10.0.0.3".into()),
            ("http_path", "x?y=1".into()),
            ("http_wait", "1s..2s".into()),
            ("http_keepalive", false.into()),
            ("source", "127.0.1.1-127.0.1.9, 127.0.3.0/28".into()),
        ]);
        let (config, targets) = said.longconn().unwrap();
        assert_eq!((config.interval_us, config.expect), (8_000_000, &b""[..]));
        assert_eq!(targets, ["10.0.0.1:1", "10.0.0.2:2"]);
        let (config, url, _) = said.http().unwrap();
        assert_eq!((&*url.host_port, &*url.path), ("10.0.0.3:80", "/x?y=1"));
        assert!(
            config.is_reconnecting && matches!(config.model, Model::Closed(1_000_000, 2_000_000))
        );
        assert_eq!(said.source().unwrap().unwrap().len(), 2);
    }

    #[test]
    fn the_host_of_a_class_goes_before_that_of_all() {
        let mut said = options(&[]);
        said.class_hosts
            .insert("LongConn".to_owned(), "10.0.0.9:9".to_owned());
        assert_eq!(said.longconn().unwrap().1, ["10.0.0.9:9"]);
        said.host = None;
        assert!(said.http().unwrap_err().to_string().contains("--http-host"));
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("longconn_every", Value::from("soon")),
            ("longconn_every", 3.into()),
            ("longconn_every", Value::Array(vec![])),
            ("longconn_send_every", "x".into()),
            ("longconn_expect", "x".repeat(20_000).into()),
        ] {
            let mut pairs = vec![("longconn_send", "x".into())];
            pairs.push((name, value));
            let error = options(&pairs).longconn().unwrap_err().to_string();
            assert!(
                error.contains(&said(name)) && error.contains("next:"),
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
