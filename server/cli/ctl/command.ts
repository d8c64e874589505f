// SPDX-License-Identifier: Apache-2.0
/** Helpers for the subcommands of `ctl`. */
import { type Command, InvalidArgumentError } from 'commander'
import { fail } from '../exit.ts'
import { whole } from '../numbers.ts'
import { faultNames, outputStream } from '../paths.ts'
import { Client, type ClientOptions } from './client.ts'

type Action<O> = (client: Client, options: O, args: readonly string[]) => Promise<void>

/** What arguments of these names have to be. */
type Argument = string | number | readonly string[]
const ARGUMENTS: Readonly<Record<string, (text: string, before?: Argument) => Argument>> = {
  id: text => whole(text),
  n: text => whole(text),
  sid: text => whole(text),
  address: text => address(text),
  file: text => outputStream(text),
  'name|file': (text, before) => faultNames(text, Array.isArray(before) ? before : []),
}

const isGiven = (argument: unknown): boolean => argument !== undefined

/** Adds a subcommand. `O`: what its options are parsed to. */
export type Add = <O = object>(
  usage: string,
  description: string,
  build: (command: Command) => Command,
  run: Action<O>,
) => void

export const adder =
  (ctl: Command): Add =>
  <O>(usage: string, description: string, build: (command: Command) => Command, run: Action<O>) => {
    const command = build(ctl.command(usage).description(description))
    for (const argument of command.registeredArguments) {
      const parse = ARGUMENTS[argument.name()]
      if (parse !== undefined) argument.argParser<Argument | undefined>(parse)
    }
    command.action(async () => {
      try {
        await run(
          new Client(ctl.opts<ClientOptions>()),
          command.opts() as O,
          command.processedArgs.flat().filter(isGiven).map(String),
        )
      } catch (error) {
        fail(error)
      }
    })
  }

/** A subcommand without options. */
export const plain = (command: Command): Command => command

export interface OnSmmu {
  readonly smmu: number
}

export const onSmmu = (command: Command): Command => command.option('--smmu <n>', 'which SMMU', whole, 0)

/** A number of up to 64 bits, as the API takes it. */
export const address = (text: string): string => {
  if (!/^(0x[0-9a-f]{1,16}|\d{1,16})$/i.test(text))
    throw new InvalidArgumentError('expected a number such as 0x48000000')
  return text
}

/** Bytes with an optional K, M or G. */
export const bytes = (text: string): number => {
  const match = /^(\d+)([KMG]?)$/i.exec(text)
  const unit = ['', 'K', 'M', 'G'].indexOf(match?.[2]?.toUpperCase() ?? '')
  const value = Number(match?.[1]) * 1024 ** unit
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('expected bytes, such as 4096, 4K or 2M')
  return value
}

/** One line per item. */
export const list = <T>(items: readonly T[], line: (item: T) => string): string =>
  items.length === 0 ? 'none' : items.map(line).join('\n')
