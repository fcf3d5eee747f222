//! An API that answers everything with the same few bytes.

use std::{io, net::Ipv4Addr};

use clap::Args;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use crate::{message::Reader, print};

/// Answer every request with 200 and a little JSON; the first line on stdout names the address.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Port on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 45\r\n\r\n\
    {\"items\":[{\"id\":1,\"amount\":120}],\"next\":null}";

/// Answers until the process is ended.
pub(crate) async fn run(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await?;
    print(&json!({ "address": format!("http://{}", listener.local_addr()?) }))?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that breaks off is its own matter.
        tokio::spawn(async move {
            let _ = serve(stream).await;
        });
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::default();
    while reader.next(&mut stream).await?.is_some() {
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}
