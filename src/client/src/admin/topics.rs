//! Topics and their configuration.

use super::{Admin, NewTopic, admin, only};
use crate::{ClientError, proto};
use std::collections::BTreeMap;
use thalweg_proto::ApiError;

impl Admin {
    /// Creates a topic and gives it as created.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<proto::Topic, ClientError> {
        let topic = proto::NewTopic {
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: topic.configs,
            assignments: Vec::new(),
        };
        let request = proto::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).create_topics(request).await }
            })
            .await?;
        let result = answer.results.into_iter().next();
        let result = result.ok_or(ClientError::Protocol("an answer has no result"))?;
        match (result.topic, result.error) {
            (_, Some(error)) => Err(ApiError::from_proto(&error).into()),
            (Some(topic), None) => Ok(topic),
            (None, None) => Err(ClientError::Protocol("a created topic is missing")),
        }
    }

    /// Deletes a topic with all its records.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let request = proto::DeleteTopicsRequest { names: vec![name.to_owned()], validate_only: false };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).delete_topics(request).await }
            })
            .await?;
        only(answer.results, |result| result.error)?;
        self.client.cache().forget_topic(name);
        Ok(())
    }

    /// All topics that are not internal, by name.
    pub async fn list_topics(&self) -> Result<Vec<proto::TopicListing>, ClientError> {
        self.list(false).await
    }

    /// All topics, the system's own included, by name.
    pub async fn list_all_topics(&self) -> Result<Vec<proto::TopicListing>, ClientError> {
        self.list(true).await
    }

    async fn list(&self, include_internal: bool) -> Result<Vec<proto::TopicListing>, ClientError> {
        let mut topics = Vec::new();
        let mut request = proto::ListTopicsRequest { include_internal, ..Default::default() };
        loop {
            let page = self
                .client
                .call(|channel| {
                    let request = request.clone();
                    async move { admin(channel).list_topics(request).await }
                })
                .await?;
            topics.extend(page.topics);
            if page.next_page_token.is_empty() {
                return Ok(topics);
            }
            if page.next_page_token == request.page_token {
                return Err(ClientError::Protocol("a page of topics names itself as the next one"));
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The named topics in full, in that order; no names: all that are not internal. Fails on the first that cannot be
    /// described.
    pub async fn describe_topics(&self, names: &[String]) -> Result<Vec<proto::Topic>, ClientError> {
        let request = proto::DescribeTopicsRequest { names: names.to_vec() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).describe_topics(request).await }
            })
            .await?;
        answer
            .results
            .into_iter()
            .map(|result| match (result.topic, result.error) {
                (_, Some(error)) => Err(ApiError::from_proto(&error).into()),
                (Some(topic), None) => Ok(topic),
                (None, None) => Err(ClientError::Protocol("a described topic is missing")),
            })
            .collect()
    }

    /// Grows a topic to `total` partitions. Keys move: `murmur2(key) % total` changes.
    pub async fn create_partitions(&self, topic: &str, total: i32) -> Result<proto::Topic, ClientError> {
        let request = proto::CreatePartitionsRequest {
            topic: topic.to_owned(),
            total_partitions: total,
            ..Default::default()
        };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).create_partitions(request).await }
            })
            .await?;
        self.client.cache().forget_topic(topic);
        answer.topic.ok_or(ClientError::Protocol("a grown topic is missing"))
    }

    /// A topic's whole configuration; an empty name gives the defaults.
    pub async fn describe_configs(&self, topic: &str) -> Result<Vec<proto::ConfigEntry>, ClientError> {
        let request = proto::DescribeConfigsRequest { topic: topic.to_owned() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).describe_configs(request).await }
            })
            .await?;
        Ok(answer.configs)
    }

    /// Sets keys of a topic's configuration and returns others to their default, all or none. Gives the keys that are
    /// set now.
    pub async fn alter_configs(
        &self,
        topic: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let request =
            proto::AlterConfigsRequest { topic: topic.to_owned(), set, unset, validate_only: false };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).alter_configs(request).await }
            })
            .await?;
        Ok(answer.configs)
    }
}
