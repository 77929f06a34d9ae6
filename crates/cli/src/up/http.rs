//! As much HTTP (RFC 1945, RFC 9110) as Prometheus and `curl` need to read one page.

use control::METRICS_TYPE;

/// The longest request: its line and headers.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// What a request, as far as it has come, is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its end has not come.
    NotYet,
    /// The figures.
    Metrics,
    /// Their size and type.
    MetricsHead,
    /// Something else.
    Other(Status),
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is done.
    Ok,
    /// Not HTTP, or too long.
    BadRequest,
    /// There is one page.
    NotFound,
    /// It can be read only.
    MethodNotAllowed,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
        }
    }
}

/// Could this be the first byte of a request? (A frame begins with its length, and the first is short.)
pub fn is_beginning(byte: u8) -> bool {
    byte.is_ascii_uppercase()
}

/// Reads a request.
pub fn parse(bytes: &[u8]) -> Asked {
    let has_ended =
        bytes.windows(4).any(|end| end == b"\r\n\r\n") || bytes.windows(2).any(|end| end == b"\n\n");
    if !has_ended {
        return if bytes.len() < REQUEST_BYTES_MAX {
            Asked::NotYet
        } else {
            Asked::Other(Status::BadRequest)
        };
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Asked::Other(Status::BadRequest);
    };
    if !version.starts_with(b"HTTP/1.") {
        return Asked::Other(Status::BadRequest);
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET", b"/metrics") => Asked::Metrics,
        (b"HEAD", b"/metrics") => Asked::MetricsHead,
        (b"GET" | b"HEAD", _) => Asked::Other(Status::NotFound),
        _ => Asked::Other(Status::MethodNotAllowed),
    }
}

/// The answer with the figures; to [`Asked::MetricsHead`] without their text.
pub fn metrics(text: &str, asked: Asked) -> Vec<u8> {
    response(Status::Ok, METRICS_TYPE, text, if asked == Asked::MetricsHead { "" } else { text })
}

/// The answer to what is not served.
pub fn refusal(status: Status) -> Vec<u8> {
    let text = format!("{}\nthere is /metrics\n", status.line());
    response(status, "text/plain; charset=utf-8", &text, &text)
}

fn response(status: Status, content_type: &str, content: &str, sent: &str) -> Vec<u8> {
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.0 {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n{sent}",
        status.line(),
        content.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        for (text, asked) in [
            ("GET /metrics HTTP/1.0\r\n\r\n", Asked::Metrics),
            ("GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", Asked::Metrics),
            ("GET /metrics HTTP/1.1\n\n", Asked::Metrics),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Asked::MetricsHead),
            ("GET /metrics HTTP/1.0\r\n", Asked::NotYet),
            ("G", Asked::NotYet),
            ("GET / HTTP/1.0\r\n\r\n", Asked::Other(Status::NotFound)),
            ("POST /metrics HTTP/1.0\r\n\r\n", Asked::Other(Status::MethodNotAllowed)),
            ("GET /metrics\r\n\r\n", Asked::Other(Status::BadRequest)),
            ("GET /metrics HTTP/2.0\r\n\r\n", Asked::Other(Status::BadRequest)),
            ("GET  /metrics HTTP/1.0\r\n\r\n", Asked::Other(Status::BadRequest)),
            ("A\n\n", Asked::Other(Status::BadRequest)),
        ] {
            assert_eq!(parse(text.as_bytes()), asked, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        assert_eq!(parse(&[b'A'; REQUEST_BYTES_MAX - 1]), Asked::NotYet);
        assert_eq!(parse(&[b'A'; REQUEST_BYTES_MAX]), Asked::Other(Status::BadRequest));
    }

    #[test]
    fn answers_say_their_length() {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let whole = text(metrics("a 1\n", Asked::Metrics));
        assert!(whole.starts_with("HTTP/1.0 200 OK\r\n") && whole.ends_with("\r\n\r\na 1\n"), "{whole}");
        let head = text(metrics("a 1\n", Asked::MetricsHead));
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(text(refusal(Status::MethodNotAllowed)).contains("\r\nAllow: GET, HEAD\r\n"));
    }
}
