# Run by bash-completion at the first <TAB> after `infinitfs`.
eval "$(infinitfs completion bash)"
