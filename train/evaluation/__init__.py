"""What pre-trained encoders are worth: retrieval, probes and fine-tuning, each beside its chance level."""
