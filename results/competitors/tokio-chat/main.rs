//! A small tokio chat server as a competitor of `holdfast-bench chat`: every line a member sends goes to all members. One task for each
//! member and one broadcast channel; lines are shared, nothing is buffered for a member that is silent. One that lags 1,024 lines is closed.
//!
//! Usage: `chat_tokio ADDRESS:PORT THREADS`
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::broadcast::{Receiver, Sender, channel};

type Line = Arc<[u8]>;

const LINES_MAX: usize = 1_024;

async fn member(
    mut stream: TcpStream,
    sender: Sender<Line>,
    mut lines: Receiver<Line>,
) -> io::Result<()> {
    let mut unfinished = Vec::new();
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Ok(line) = line else { return Ok(()) };
                stream.write_all(&line).await?;
            }
            readable = stream.readable() => {
                readable?;
                let mut bytes = [0; 512];
                let count = match stream.try_read(&mut bytes) {
                    Ok(0) => return Ok(()),
                    Ok(count) => count,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                };
                unfinished.extend_from_slice(&bytes[..count]);
                while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
                    let line: Line = unfinished.drain(..=end).collect();
                    // It fails when nobody listens; this member does.
                    let _ = sender.send(line);
                }
            }
        }
    }
}

async fn serve(address: &str) -> io::Result<()> {
    let address = address.parse().map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // As many as the kernel allows, as Go asks for.
    let listener = socket.listen(65_535)?;
    let (sender, _) = channel(LINES_MAX);
    println!("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(member(stream, sender.clone(), sender.subscribe()));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(address), Some(threads)) = (words.next(), words.next()) else {
        return Err("usage: chat_tokio ADDRESS:PORT THREADS".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.parse()?)
        .enable_all()
        .build()?;
    Ok(runtime.block_on(serve(&address))?)
}
