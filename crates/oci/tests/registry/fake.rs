//! A server that answers whatever a test wants, and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What it sends, byte for byte, and what it does then.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What `Content-Length` says, if not the truth.
    pub announced: Option<u64>,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request.
    Goes,
    /// Closes the connection.
    Closes,
    /// Keeps the connection open and says nothing until the client goes away.
    Stalls,
    /// Sends zeros until the client goes away.
    Floods,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), announced: None, then: Then::Goes }
    }

    pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), format!("{value}")));
        self
    }

    pub fn announce(mut self, length: u64) -> Self {
        self.announced = Some(length);
        self
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

pub struct Fake {
    pub host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    listener: TcpListener,
}

impl Fake {
    /// Answers on a fresh port. The thread ends with the test.
    pub fn new(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (noted, accepting) = (Arc::clone(&seen), listener.try_clone().unwrap());
        let handler: Arc<Handler> = Arc::new(handler);
        thread::spawn(move || {
            for stream in accepting.incoming() {
                let Ok(stream) = stream else { return };
                let (noted, handler) = (Arc::clone(&noted), Arc::clone(&handler));
                thread::spawn(move || serve(&stream, &noted, &handler));
            }
        });
        Self { host, seen, listener }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Request::line).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Request>>, handler: &Arc<Handler>) {
    // Header and body are two writes; without this each answer takes a client's delayed acknowledgement, 40 ms.
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        seen.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        if write(stream, &answer, request.method == "HEAD").is_err() {
            return;
        }
        match answer.then {
            Then::Goes => {}
            Then::Closes => {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            Then::Stalls => {
                let _ = reader.read(&mut [0]);
                return;
            }
            Then::Floods => {
                while (&mut &*stream).write_all(&[b' '; 65536]).is_ok() {}
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let mut request =
        Request { method: words.next()?.into(), path: words.next()?.into(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn write(mut stream: &TcpStream, answer: &Answer, head: bool) -> std::io::Result<()> {
    let length = answer.announced.unwrap_or(answer.body.len() as u64);
    let mut text = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
    if !matches!(answer.status, 204 | 304) {
        text += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    if head { Ok(()) } else { stream.write_all(&answer.body) }
}
