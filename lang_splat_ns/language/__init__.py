"""Text and features: queries, relevancy, and the protocol that every language field keeps."""
