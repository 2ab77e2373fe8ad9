# bash completion for foliofs
_foliofs()
{
	local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "init mount umount status sync offline online pin unpin cache key ls cat get check stats regions requests map trace snapshot gc --help --version" -- "$cur")
	elif [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(foliofs "$command" --help 2>/dev/null | grep -oE '^ +(-., )?--[a-z-]+' | grep -oE -- '--[a-z-]+')" -- "$cur")
	elif [ "$command" = key ] && [ "$COMP_CWORD" = 3 ]; then
		mapfile -t COMPREPLY < <(compgen -W "list add remove change recovery" -- "$cur")
	elif [ "$command" = cache ] && [ "$COMP_CWORD" = 3 ]; then
		mapfile -t COMPREPLY < <(compgen -W "info drop verify wipe" -- "$cur")
	elif [[ $command =~ ^(umount|status|stats|regions|requests|trace)$ ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(awk '$3 == "fuse.foliofs" { print $2 }' /proc/mounts)" -- "$cur")
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	fi
}
complete -o filenames -F _foliofs foliofs
