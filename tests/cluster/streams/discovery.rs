//! Health and reflection, as the field's own tools call them.

use crate::harness::{Api, Dev, within};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const SERVICES: [&str; 4] = [
    "thalweg.v1.AdminService",
    "thalweg.v1.ClusterService",
    "thalweg.v1.ConsumerService",
    "thalweg.v1.ProducerService",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_says_serving() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut health = HealthClient::new(api.channel.clone());
    for service in SERVICES.iter().chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let answer = within("Check", health.check(request)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "no.such.Service".into() };
    assert_eq!(within("Check", health.check(request)).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reflection_lists_the_services_and_describes_them() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let ask = async |request: MessageRequest| {
        let mut client = ServerReflectionClient::new(api.channel.clone());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let call =
            within("ServerReflectionInfo", client.server_reflection_info(tokio_stream::once(request))).await;
        let answer =
            within("an answer", call.unwrap().get_mut().message()).await.unwrap().expect("an answer");
        answer.message_response.expect("it says something")
    };
    let listed = match ask(MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(listed) => listed.service,
        other => panic!("{other:?}"),
    };
    let names: Vec<&str> = listed.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
        assert!(names.contains(service), "{service} in {names:?}");
    }
    for symbol in SERVICES.iter().chain(&["thalweg.v1.Record", "thalweg.v1.ProducerService.Produce"]) {
        match ask(MessageRequest::FileContainingSymbol((*symbol).to_owned())).await {
            MessageResponse::FileDescriptorResponse(files) => {
                assert!(!files.file_descriptor_proto.is_empty(), "{symbol}");
            }
            other => panic!("{symbol}: {other:?}"),
        }
    }
}
