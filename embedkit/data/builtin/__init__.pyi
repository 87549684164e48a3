from .sentences import tokenizer as tokenizer
