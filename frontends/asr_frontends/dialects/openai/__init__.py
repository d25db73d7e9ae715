"""OpenAI's dialect: uploads over HTTP."""
