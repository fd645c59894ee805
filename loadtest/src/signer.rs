//! Signs hellos for load generators that have no Ed25519, such as k6.
//!
//! It holds the secret keys of a mesh, so it listens on this machine alone and answers whoever shows
//! its token: `GET /members` says how many members there are, `POST /hello` gives the first frame of a
//! connection. `{"member": 3, "session": true, "index": 27}` asks for a session of the fourth member:
//! the same session for the same `index`, one of the member's own for none. With `session` false it is
//! the member's own connection.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::Error;
use crate::cli::Signer;
use crate::clock::wall_ms;
use crate::identity::Identity;
use crate::mesh::Mesh;

struct Shared {
    mesh: Mesh,
    token: String,
}

/// A hello that is wanted.
#[derive(Debug, Deserialize)]
struct Wanted {
    /// From 0.
    member: u32,
    #[serde(default)]
    session: bool,
    #[serde(default)]
    index: Option<u32>,
}

/// Answers until the process is ended.
pub(crate) async fn run(options: &Signer) -> Result<(), Error> {
    let mesh = Mesh::read(&options.mesh)?;
    if !options.listen.ip().is_loopback() {
        return Err(Error::Options(
            "--listen: secret keys are used there: only this machine's own",
        ));
    }
    if options.token.is_empty() {
        return Err(Error::Options("--token: must not be empty"));
    }
    let listener = TcpListener::bind(options.listen).await?;
    eprintln!("signing at http://{}", listener.local_addr()?);
    serve(listener, mesh, options.token.clone()).await
}

async fn serve(listener: TcpListener, mesh: Mesh, token: String) -> Result<(), Error> {
    let shared = Arc::new(Shared { mesh, token });
    let routes = Router::new()
        .route("/members", get(members))
        .route("/hello", post(hello))
        .layer(middleware::from_fn_with_state(shared.clone(), authorized))
        .with_state(shared);
    Ok(axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>()).await?)
}

async fn authorized(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if given == Some(shared.token.as_str()) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "the token is missing or wrong").into_response()
    }
}

async fn members(State(shared): State<Arc<Shared>>) -> Response {
    let keys: Vec<_> = shared.mesh.members.iter().map(|member| &member.pubkey).collect();
    Json(json!({ "count": keys.len(), "pubkeys": keys })).into_response()
}

async fn hello(State(shared): State<Arc<Shared>>, Json(wanted): Json<Wanted>) -> Response {
    match sign(&shared.mesh, &wanted, wall_ms()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

fn sign(mesh: &Mesh, wanted: &Wanted, now_ms: i64) -> Result<String, String> {
    let count = u32::try_from(mesh.members.len()).unwrap_or(u32::MAX);
    if wanted.member >= count {
        return Err(format!("member: the mesh has {count}"));
    }
    // Sessions are numbered over all members, who take turns.
    let index = wanted.index.filter(|_| wanted.session).unwrap_or(wanted.member);
    if index % count != wanted.member {
        return Err(format!("index: {index} is a session of member {}", index % count));
    }
    let identity = Identity::new(mesh, index).map_err(|_| "a secret key is none".to_owned())?;
    Ok(if wanted.session { identity.session_hello(now_ms) } else { identity.daemon_hello(now_ms) })
}

#[cfg(test)]
mod tests {
    use protocol::client::{self, Frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::fake::mesh;

    fn signed(member: u32, session: bool, index: Option<u32>) -> Result<Frame, String> {
        let text = sign(&mesh(3), &Wanted { member, session, index }, 5)?;
        client::parse(&text).map_err(|_| text)
    }

    #[test]
    fn sessions_return_and_members_have_their_own_connection() {
        let key = |index| match signed(1, true, index) {
            Ok(Frame::SessionHello(hello)) => hello.session_pubkey,
            other => panic!("{other:?}"),
        };
        assert_eq!(key(Some(4)), key(Some(4)));
        assert_ne!(key(Some(4)), key(Some(7)));
        assert_eq!(key(None), key(Some(1)));
        assert!(matches!(signed(2, false, Some(9)), Ok(Frame::Hello(_))));
        assert!(signed(3, true, None).is_err());
        assert!(signed(1, true, Some(5)).is_err());
    }

    #[tokio::test]
    async fn nothing_is_signed_without_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut servers = tokio::task::JoinSet::new();
        servers.spawn(serve(listener, mesh(2), "right".to_owned()));
        let ask = async |token: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let body = r#"{"member":1,"session":true}"#;
            let request = format!(
                "POST /hello HTTP/1.1\r\nHost: signer\r\nAuthorization: Bearer {token}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(ask("wrong").await.starts_with("HTTP/1.1 401"));
        let answer = ask("right").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("session_hello"), "{answer}");
    }
}
