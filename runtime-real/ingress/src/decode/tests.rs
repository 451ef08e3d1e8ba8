//! Answers of backends, however they are cut into reads.

use super::*;

const MOST: usize = 1_024;

/// What is made of an answer.
#[derive(Debug, PartialEq)]
struct Read {
    status: u16,
    fields: String,
    body: String,
    /// Whether another request may follow, and what would be read as its answer.
    rest: Option<String>,
}

fn read_in(parts: &[&[u8]], asked: Asked) -> Result<Read, BadAnswer> {
    let (mut buffer, mut headers) = (BytesMut::new(), HeaderMap::new());
    let (mut first, mut body, mut trailers) = (None, Vec::new(), HeaderMap::new());
    for part in parts {
        buffer.extend_from_slice(part);
        if first.is_none() {
            first = head(&mut buffer, MOST, asked, &mut headers)?;
        }
        let Some(first) = &mut first else { continue };
        while let Some(frame) = first.body.next(&mut buffer, MOST)? {
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
    }
    let mut first = first.ok_or(BadAnswer::Ended)?;
    let keep = first.keep && first.body.is_done();
    first.body.end()?;
    let fields = headers.iter().chain(&trailers);
    let field =
        |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={} ", value.to_str().unwrap());
    let mut fields: Vec<String> = fields.map(field).collect();
    fields.sort();
    Ok(Read {
        status: first.status.as_u16(),
        fields: fields.concat(),
        body: String::from_utf8(body).unwrap(),
        rest: keep.then(|| String::from_utf8(buffer.to_vec()).unwrap()),
    })
}

/// The answer reads in this way however it is cut.
fn check_asked(
    text: &str,
    asked: Asked,
    expect: Result<(u16, &str, &str, Option<&str>), BadAnswer>,
) {
    let expect = expect.map(|(status, fields, body, rest)| Read {
        status,
        fields: fields.to_owned(),
        body: body.to_owned(),
        rest: rest.map(str::to_owned),
    });
    let bytes = text.as_bytes();
    assert_eq!(read_in(&[bytes], asked), expect, "{text:?}");
    for cut in 1..bytes.len() {
        let cut_up = read_in(&[&bytes[..cut], &bytes[cut..]], asked);
        assert_eq!(cut_up, expect, "{text:?} cut at {cut}");
    }
    let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read_in(&one_by_one, asked), expect, "{text:?} byte by byte");
}

fn check(text: &str, expect: Result<(u16, &str, &str, Option<&str>), BadAnswer>) {
    check_asked(text, Asked::default(), expect);
}

#[test]
fn a_body_ends_where_its_length_its_last_chunk_or_its_connection_says() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let length = format!("{ok}Content-Length: 3\r\nA: b\r\n\r\nabc");
    check(&length, Ok((200, "a=b content-length=3 ", "abc", Some(""))));
    check(&format!("{length}HTTP"), Ok((200, "a=b content-length=3 ", "abc", Some("HTTP"))));
    let chunked =
        format!("{ok}Transfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n");
    let whole = "abc0123456789";
    check(&format!("{chunked}0\r\n\r\n"), Ok((200, "", whole, Some(""))));
    check(&format!("{chunked}0\r\nT: u\r\n\r\n"), Ok((200, "t=u ", whole, Some(""))));
    check(&format!("{ok}\r\nuntil the end"), Ok((200, "", "until the end", None)));
    let other = format!("{ok}Transfer-Encoding: gzip\r\n\r\nzipped");
    check(&other, Ok((200, "", "zipped", None)));
    check(&format!("{ok}Content-Length: 0\r\n\r\n"), Ok((200, "content-length=0 ", "", Some(""))));
    check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", {
        Ok((304, "content-length=9 ", "", Some("")))
    });
    let head = Asked { head: true, upgrade: false };
    let answer = format!("{ok}Content-Length: 9\r\n\r\n");
    check_asked(&answer, head, Ok((200, "content-length=9 ", "", Some(""))));
}

#[test]
fn what_ends_early_is_no_whole_answer() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for cut in [
        ok.to_owned(),
        format!("{ok}Content-Length: 3\r\n\r\nab"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"),
    ] {
        check(&cut, Err(BadAnswer::Ended));
    }
}

#[test]
fn an_answer_with_two_lengths_is_not_followed_by_another() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    let both = format!("{ok}Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    check(&both, Ok((200, "", "abc", None)));
    let both = format!("{ok}Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n{chunks}");
    check(&both, Ok((200, "", "abc", None)));
    let same = format!("{ok}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc");
    check(&same, Ok((200, "content-length=3 ", "abc", Some(""))));
    for odd in ["3\r\nContent-Length: 4", "3, 4", "3, 3", "+3", "-3", "", "0x3", "3 3"] {
        check(&format!("{ok}Content-Length: {odd}\r\n\r\nabc"), Err(BadAnswer::Length));
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(old, Err(BadAnswer::Length));
}

#[test]
fn malformed_answers_are_refused() {
    for odd in ["200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n"] {
        check(odd, Err(BadAnswer::Head));
    }
    check("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Err(BadAnswer::Head));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("1;{}", "x".repeat(MAX_CHUNK_LINE));
    for odd in ["g\r\n", "\r\n", "-1\r\n", "1\na", "1ffffffffffffffff\r\n", "0\r\nA\r\n\r\n", &long]
    {
        check(&format!("{chunked}{odd}"), Err(BadAnswer::Body));
    }
    let longer = read_in(&[format!("{chunked}1\r\nabc\r\n").as_bytes()], Asked::default());
    assert_eq!(longer, Err(BadAnswer::Body));
    let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(MOST));
    assert_eq!(read_in(&[large.as_bytes()], Asked::default()), Err(BadAnswer::TooLarge));
    assert_eq!(read_in(&[&large.as_bytes()[..MOST]], Asked::default()), Err(BadAnswer::TooLarge));
}

#[test]
fn what_is_for_the_connection_stays_behind() {
    let text = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\
                Proxy-Connection: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\nX-Else: 2\r\n\r\n";
    check(text, Ok((200, "content-length=0 x-else=2 ", "", Some(""))));
    let close = "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
    check(close, Ok((200, "content-length=0 ", "", None)));
    let length = "HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 1\r\n\r\na";
    check(length, Ok((200, "content-length=1 ", "a", Some(""))));
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
    check(old, Ok((200, "content-length=0 ", "", None)));
    let old = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
    check(old, Ok((200, "content-length=0 ", "", Some(""))));
}

#[test]
fn interim_answers_are_left_out_and_nothing_is_switched_unasked() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    check(&format!("{interim}{last}"), Ok((200, "content-length=1 ", "a", Some(""))));
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    check(switching, Err(BadAnswer::Head));
    let asked = Asked { head: false, upgrade: true };
    check_asked(switching, asked, Ok((101, "", "", None)));
}
