// SPDX-License-Identifier: Apache-2.0
/** The real command line, which reads its words and does nothing. */
import { type Command, CommanderError } from 'commander'
import { commandLine } from '../../../server/cli/program.ts'

/** What became of words: the command that they lead to, or what was said against them. */
export interface Parsed {
  /** As `trace show`; undefined: they were refused, or asked for help. */
  readonly command?: string
  readonly options?: Readonly<Record<string, unknown>>
  readonly args?: readonly unknown[]
  /** Of the process: 0 also for --help. */
  readonly code: number
  readonly said: string
}

class Ended extends Error {
  readonly code: number

  constructor(code: number) {
    super(`ended with ${code}`)
    this.code = code
  }
}

const path = (command: Command): string =>
  command.parent === null ? '' : `${path(command.parent)} ${command.name()}`.trim()

export async function parsed(words: readonly string[]): Promise<Parsed> {
  let said = ''
  let found: Omit<Parsed, 'code' | 'said'> = {}
  const program = commandLine(code => {
    throw new Ended(code === 0 ? 0 : 2)
  })
  const prepare = (command: Command): void => {
    const write = (text: string) => {
      said += text
    }
    command.configureOutput({ writeOut: write, writeErr: write })
    if (command.commands.length === 0) {
      command.action(() => {
        found = { command: path(command), options: command.opts(), args: command.processedArgs }
      })
    }
    for (const child of command.commands) prepare(child)
  }
  prepare(program)
  try {
    await program.parseAsync([...words], { from: 'user' })
    return { ...found, code: 0, said }
  } catch (error) {
    if (error instanceof Ended) return { code: error.code, said }
    if (error instanceof CommanderError) return { code: error.exitCode, said }
    throw error
  }
}

/** Every command that does something. */
export function commands(): Command[] {
  const leaves = (command: Command): Command[] =>
    command.commands.length === 0 ? [command] : command.commands.flatMap(leaves)
  return leaves(
    commandLine(code => {
      throw new Ended(code)
    }),
  )
}
