//! A real headless Chromium, driven by chromedriver.
//!
//! Purpose: opens a file, runs a script in it, changes what the page believes of its device, takes
//! pictures, and tells what the page wrote to the console and asked the network for.
//! Invariants: browser and driver end with it; its profile is a folder of its own, removed
//! afterwards. A missing program fails, and says how to get it.
//! Must not depend on: what a page is about.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

/// A browser with one window.
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    driver: Child,
    profile: PathBuf,
}

/// A command of chromedriver's own, by the end of its path.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.0
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// Starts one; `name` tells it from others of this process.
    pub fn start(name: &str) -> Self {
        let profile =
            std::env::temp_dir().join(format!("holdfast-browser-{}-{name}", std::process::id()));
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("chromedriver cannot be started ({e}); next: make need"));
        let mut lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once(" successfully on port ")?
                    .1
                    .trim_end_matches('.')
                    .parse::<u16>()
                    .ok()
            })
            .expect("chromedriver names its port; next: make need");
        // It goes on writing, and must not meet a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let Value::Object(wanted) = json!({
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }) else {
            unreachable!("an object");
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let client = runtime.block_on(
            ClientBuilder::new(HttpConnector::new())
                .capabilities(wanted)
                .connect(&format!("http://127.0.0.1:{port}/")),
        );
        let mut browser = Self {
            runtime,
            client: None,
            driver,
            profile,
        };
        browser.client = Some(client.expect("chromium starts; next: make need"));
        // The page that a new window shows asks for much.
        let blank = browser
            .runtime
            .block_on(browser.client().goto("about:blank"));
        blank.expect("opens");
        browser
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("a session")
    }

    fn own(&self, path: &'static str, what: Value) -> Value {
        self.runtime
            .block_on(self.client().issue_cmd(Own(path, what)))
            .expect("chromedriver answers")
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.own(
            "goog/cdp/execute",
            json!({ "cmd": command, "params": parameters }),
        )
    }

    /// Opens a file.
    pub fn open(&self, file: &Path) {
        let address = format!("file://{}", file.canonicalize().expect("a file").display());
        self.runtime
            .block_on(self.client().goto(&address))
            .expect("opens");
    }

    /// The result of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.runtime
            .block_on(self.client().execute(script, vec![]))
            .expect("runs")
    }

    /// Has the page believe in a window of this size and this colour scheme.
    pub fn pretend(&self, width: u32, height: u32, scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500 }),
        );
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// A picture of the whole page, PNG in base64.
    pub fn picture(&self) -> String {
        let size = self.devtools("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 0.75 });
        let shot = self.devtools(
            "Page.captureScreenshot",
            json!({ "captureBeyondViewport": true, "clip": clip }),
        );
        shot["data"].as_str().expect("a picture").to_string()
    }

    /// What the page wrote to the console since this was asked last.
    pub fn console(&self) -> Vec<Value> {
        self.log("browser")
    }

    /// Addresses asked for since this was asked last.
    pub fn requests(&self) -> Vec<String> {
        let events = self.log("performance");
        let events = events
            .iter()
            .filter_map(|e| serde_json::from_str::<Value>(e["message"].as_str()?).ok());
        events
            .filter(|e| e["message"]["method"] == "Network.requestWillBeSent")
            .filter_map(|e| {
                Some(
                    e["message"]["params"]["request"]["url"]
                        .as_str()?
                        .to_string(),
                )
            })
            .collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.own("se/log", json!({ "type": kind }))
            .as_array()
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(client.close());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}
