// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim completion`: scripts that complete commands, options and their values, made of what commander knows. */
import { Argument, type Command, type Option } from 'commander'
import { catalogue } from '../faults/catalogue.ts'
import { LATEST } from '../machine/runs.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { KERNELS } from '../run/files.ts'
import { print } from './terminal.ts'

const SHELLS = ['bash', 'zsh', 'fish'] as const
type Shell = (typeof SHELLS)[number]

const faults = () => catalogue().map(({ name }) => name)

/** Names that a place takes besides files, by what stands between its brackets. */
const NAMES: Readonly<Record<string, () => readonly string[]>> = {
  'name|file': faults,
  'file|name': faults,
  'series|file|dir': () => KERNELS,
  recording: () => [LATEST],
  a: () => [LATEST],
  b: () => [LATEST],
  run: () => [LATEST],
}

/** What may stand at a place: these words, and files if it is theirs. */
interface Values {
  readonly words: readonly string[]
  readonly files: boolean
}

interface Place {
  /** Commands on the way, as ` trace show`; empty: none yet. */
  readonly path: string
  readonly subcommands: readonly { readonly name: string; readonly about: string }[]
  readonly options: readonly { readonly flags: readonly string[]; readonly about: string; readonly values?: Values }[]
  /** Of its arguments. */
  readonly values: Values
}

/** @param brackets as `<name|file...>` */
function valuesOf(brackets: string, choices: readonly string[] | undefined): Values {
  const what = brackets.replace(/[^\w|]/g, '')
  const words = choices ?? NAMES[what]?.() ?? []
  return {
    words,
    files: choices === undefined && /file|recording|dir|folder|socket|case|^[ab]$|damaged|new/.test(what),
  }
}

function optionOf({ long, short, flags, description, argChoices }: Option): Place['options'][number] {
  const [brackets] = /[<[].*$/.exec(flags) ?? []
  const names = [long, short].filter(name => name !== undefined)
  if (brackets === undefined) return { flags: names, about: description }
  const values = valuesOf(brackets, argChoices)
  // Their brackets are those of faults.
  return { flags: names, about: description, values: long === '--policy' ? { ...values, words: POLICY_NAMES } : values }
}

/** All places of the command line, outermost first. */
function places(command: Command, path = ''): Place[] {
  const arguments_ = command.registeredArguments.map(argument =>
    valuesOf(argument.name(), argument.argChoices ?? (argument.name() === 'name' ? faults() : undefined)),
  )
  const own = {
    path,
    subcommands: command.commands.map(child => ({ name: child.name(), about: child.description() })),
    options: command.createHelp().visibleOptions(command).map(optionOf),
    values: {
      words: [...new Set(arguments_.flatMap(({ words }) => words))],
      files: arguments_.some(({ files }) => files),
    },
  }
  return [own, ...command.commands.flatMap(child => places(child, `${path} ${child.name()}`))]
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

/** `compgen` for values, a line each: names of files may have spaces. */
const compgen = ({ words, files }: Values): string =>
  [
    ...(words.length > 0 ? [`COMPREPLY+=($(compgen -W ${quoted(words.join('\n'))} -- "$current"))`] : []),
    ...(files ? ['COMPREPLY+=($(compgen -f -- "$current"))'] : []),
  ].join('; ') || ':'

function bash(all: readonly Place[]): string {
  const commands = all.map(({ path }) => quoted(path)).slice(1)
  const values = all.flatMap(({ path, options }) =>
    options.flatMap(option =>
      option.values === undefined
        ? []
        : [
            `    ${option.flags.map(flag => quoted(`${path} ${flag}`)).join('|')}) ${compgen(option.values)}; return ;;`,
          ],
    ),
  )
  const words = all.map(({ path, options, subcommands, values }) => {
    const flags = options.flatMap(({ flags }) => flags)
    const names = { words: [...subcommands.map(({ name }) => name), ...values.words], files: values.files }
    const body = `if [[ $current == -* ]]; then ${compgen({ words: flags, files: false })}; else ${compgen(names)}; fi`
    return `    ${quoted(path)}) ${body} ;;`
  })
  return [
    '_smmu_cosim() {',
    `  local current="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" at= i`,
    "  local IFS=$'\\n'",
    '  COMPREPLY=()',
    '  for ((i = 1; i < COMP_CWORD; i++)); do',
    `    case "$at \${COMP_WORDS[i]}" in`,
    `      ${commands.join('|')}) at="$at \${COMP_WORDS[i]}" ;;`,
    '    esac',
    '  done',
    '  case "$at $before" in',
    ...values,
    '  esac',
    '  case "$at" in',
    ...words,
    '  esac',
    '}',
    'complete -o filenames -F _smmu_cosim smmu-cosim',
  ].join('\n')
}

function fish(all: readonly Place[]): string {
  const escaped = (text: string) => `'${text.replace(/['\\]/g, '\\$&')}'`
  const lines = all.flatMap(({ path, subcommands, options, values }) => {
    const here = `complete -c smmu-cosim -n ${escaped(`__smmu_cosim_at "${path}"`)}`
    return [
      ...subcommands.map(({ name, about }) => `${here} -a ${name} -d ${escaped(about)}`),
      ...(values.words.length > 0 ? [`${here} -a ${escaped(values.words.join(' '))}`] : []),
      ...(values.files ? [`${here} -F`] : []),
      ...options.map(({ flags, about, values }) => {
        const names = flags.map(flag => (flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`))
        const takes = values === undefined ? '' : values.files ? ' -r -F' : ' -x'
        const words = values === undefined || values.words.length === 0 ? '' : ` -a ${escaped(values.words.join(' '))}`
        return `${here} ${names.join(' ')}${takes}${words} -d ${escaped(about)}`
      }),
    ]
  })
  return [
    'function __smmu_cosim_at',
    "  set -l at ''",
    '  for word in (commandline -opc)[2..]',
    `    contains -- "$at $word" ${all.map(({ path }) => escaped(path)).join(' ')}; and set at "$at $word"`,
    '  end',
    '  test "$at" = "$argv[1]"',
    'end',
    'complete -c smmu-cosim -f',
    ...lines,
  ].join('\n')
}

/** The script of a shell for a command line. */
export function completion(program: Command, shell: Shell): string {
  const all = places(program)
  if (shell === 'fish') return fish(all)
  return shell === 'bash'
    ? bash(all)
    : `autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n${bash(all)}`
}

/** `smmu-cosim completion`. */
export function completionCommand(program: Command): void {
  program
    .command('completion')
    .description('a script that completes commands, options and names; in bash: source <(smmu-cosim completion bash)')
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .action((shell: Shell) => print(completion(program, shell)))
}
