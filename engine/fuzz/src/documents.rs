//! JSON that is read back: records of runs, and report lines of server and client.
//!
//! A document survives writing and reading, a record with any numbers can be judged and shown, and
//! lines of another schema are rejected.

use std::fmt::Debug;
use std::path::Path;

use holdfast_report::header::Verdict;
use holdfast_report::http::record::HttpRun;
use holdfast_report::proxy::record::ProxyRun;
use holdfast_report::run::Run;
use holdfast_report::{bottleneck, http, proxy, summary, verdict};
use holdfast_telemetry::report_line::Report;
use holdfast_telemetry::wire::{
    CLIENT_SCHEMA, ClientReport, HttpClientReport, HttpServerReport, SERVER_SCHEMA, ServerReport,
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads, writes, and reads again.
fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) -> Option<T> {
    let read: T = serde_json::from_str(text).ok()?;
    for written in [
        serde_json::to_string(&read),
        serde_json::to_string_pretty(&read),
    ] {
        let again = written.map(|text| serde_json::from_str::<T>(&text));
        match again {
            Ok(Ok(again)) => assert_eq!(again, read, "read again"),
            said => panic!("what was written cannot be read: {said:?}"),
        }
    }
    Some(read)
}

/// Option byte of a `proxy` record. Added later, so that existing corpus files keep their meaning.
const PROXY: u8 = b'p';

fn judge_proxy(run: &mut ProxyRun) {
    proxy::verdict::judge(run);
    assert_eq!(
        run.header.reasons.is_empty(),
        run.header.verdict == Verdict::Pass
    );
    run.header.limits = bottleneck::of_proxy(run);
    assert!(!run.header.limits.is_empty());
    run.added = proxy::rounds::added(&run.trials);
    assert!(!proxy::summary::page(run, Path::new("runs/1")).is_empty());
}

/// JSON documents: an option byte that says of which schema, then the text.
pub fn documents(data: &[u8]) {
    let Some((option, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match option % 6 {
        _ if *option == PROXY => {
            let Some(mut run) = round::<ProxyRun>(text) else {
                return;
            };
            judge_proxy(&mut run);
        }
        0 => {
            let Some(mut run) = round::<Run>(text) else {
                return;
            };
            verdict::judge(&mut run);
            assert_eq!(
                run.header.reasons.is_empty(),
                run.header.verdict == Verdict::Pass
            );
            run.header.limits = bottleneck::of_longconn(&run);
            assert!(!run.header.limits.is_empty());
            assert!(!summary::page(&run, Path::new("runs/1")).is_empty());
        }
        1 => {
            let Some(mut run) = round::<HttpRun>(text) else {
                return;
            };
            http::verdict::judge(&mut run);
            assert_eq!(
                run.header.reasons.is_empty(),
                run.header.verdict == Verdict::Pass
            );
            run.header.limits = bottleneck::of_http(&run);
            assert!(!run.header.limits.is_empty());
            assert!(!http::summary::page(&run, Path::new("runs/1")).is_empty());
        }
        2 => {
            let read = round::<ServerReport>(text).filter(|r| r.schema == SERVER_SCHEMA);
            assert_eq!(<ServerReport as Report>::read(text).ok(), read);
        }
        3 => {
            let read = round::<ClientReport>(text).filter(|r| r.schema == CLIENT_SCHEMA);
            assert_eq!(<ClientReport as Report>::read(text).ok(), read);
        }
        4 => drop(round::<HttpServerReport>(text)),
        _ => drop(round::<HttpClientReport>(text)),
    }
}
