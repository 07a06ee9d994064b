# Run by fish at the first <TAB> after `infinitfs`.
infinitfs completion fish | source
