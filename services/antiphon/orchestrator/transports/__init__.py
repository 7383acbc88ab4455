"""How a person reaches a conversation: one package a transport."""
