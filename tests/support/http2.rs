//! HTTP/2 by h2 alone, which knows nothing of gRPC: a test sees what was on the wire.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;

/// An application on a loopback address; it ends when dropped.
pub struct Application {
    pub address: SocketAddr,
    heard: Receiver<Request<Bytes>>,
    _runtime: Runtime,
}

impl Application {
    /// Answers by `answer`. The trailers of a call to gRPC say that all is well.
    pub fn start(
        answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Clone + Send + 'static,
    ) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (hears, heard) = mpsc::channel();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hears, answer) = (hears.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await?;
                    while let Some(called) = connection.accept().await {
                        let (request, respond) = called?;
                        tokio::spawn(one(request, respond, hears.clone(), answer.clone()));
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
        Self {
            address,
            heard,
            _runtime: runtime,
        }
    }

    /// The next request, once all of it has come.
    #[track_caller]
    pub fn hear(&self) -> Request<Bytes> {
        let heard = self.heard.recv_timeout(super::PATIENCE);
        heard.expect("a request comes")
    }
}

async fn one(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    hears: mpsc::Sender<Request<Bytes>>,
    answer: impl Fn(&Request<Bytes>) -> Response<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let (body, _) = whole(body).await?;
    let request = Request::from_parts(head, body);
    let (head, body) = answer(&request).into_parts();
    let grpc = head.headers["content-type"] == "application/grpc";
    let mut sends = respond.send_response(Response::from_parts(head, ()), false)?;
    sends.send_data(body, !grpc)?;
    if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sends.send_trailers(trailers)?;
    }
    let _ = hears.send(request);
    Ok(())
}

/// Asks who listens on a unix socket; the trailers of the answer stand among its headers.
#[track_caller]
pub fn ask(at: &Path, request: Request<Bytes>) -> Response<Bytes> {
    let asking = async {
        let stream = UnixStream::connect(at).await.expect("somebody listens");
        let (mut send, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let (head, body) = request.into_parts();
        let (answer, mut sends) = send.send_request(Request::from_parts(head, ()), false)?;
        sends.send_data(body, true)?;
        let (mut head, body) = answer.await?.into_parts();
        let (body, trailers) = whole(body).await?;
        head.headers.extend(trailers);
        Ok::<_, h2::Error>(Response::from_parts(head, body))
    };
    let answer = Runtime::new().expect("a runtime").block_on(asking);
    answer.expect("an answer in HTTP/2")
}

/// All of a body, and its trailers.
async fn whole(mut body: RecvStream) -> Result<(Bytes, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((bytes.into(), trailers))
}
