// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim walk`: translates an address step by step, in a running machine or a recorded one. */
import { type Command, Option } from 'commander'
import { LATEST } from '../machine/runs.ts'
import { walkText } from '../smmu/walkAnswer.ts'
import { recordedMachine } from '../trace/recordedMachine.ts'
import { Client, type ClientOptions, urlOptions } from './ctl/client.ts'
import { address, onSmmu } from './ctl/command.ts'
import { EXIT, fail, UsageError } from './exit.ts'
import { whole } from './numbers.ts'
import { inputRecording } from './paths.ts'
import { checkPolicy, noTypeCheck } from './policyCheck.ts'
import { sayProblems } from './problems.ts'
import { print, say } from './terminal.ts'

export interface WalkOptions {
  readonly smmu: number
  readonly sid: number
  readonly ssid?: number
  /** Input address. */
  readonly iova: string
  readonly write?: true
  readonly table?: 'hardware' | 'host'
}

export const walkOptions = (command: Command): Command =>
  onSmmu(command)
    .requiredOption('--sid <n>', 'StreamID', whole)
    .requiredOption('--iova <address>', 'input address', address)
    .option('--ssid <n>', 'SubstreamID', whole)
    .addOption(new Option('--read', 'a read (default)').conflicts('write'))
    .option('--write', 'a write')
    .addOption(new Option('--table <which>', 'stream table').choices(['hardware', 'host']))

/** Also `ctl walk`. */
export async function printWalk(client: Client, options: WalkOptions): Promise<void> {
  const { smmu, sid, ssid, iova, write, table } = options
  const query = { sid, iova, ssid, table, access: write ? 'write' : 'read' } as const
  client.print(await client.call('GET /smmus/:smmu/walk', { params: { smmu }, query }), walkText)
}

interface WalkCommandOptions extends WalkOptions, ClientOptions {
  readonly recording?: string
  readonly at?: number
  readonly policy?: string
  readonly typeCheck: boolean
}

async function printRecordedWalk(recording: string, options: WalkCommandOptions): Promise<void> {
  const { at, policy, typeCheck, json, iova, write, ...rest } = options
  await checkPolicy(policy, typeCheck, new AbortController().signal)
  const { machine, moment, problems, unknown } = await recordedMachine(recording, at, policy, rest)
  const answer = machine.walk({ ...rest, iova: BigInt(iova), write: write === true })
  // To be read beside it, and not part of the answer.
  say(moment)
  print(json ? JSON.stringify(answer, null, 2) : walkText(answer))
  sayProblems(problems)
  if (unknown !== undefined) say(unknown)
  if (answer.outcome === 'unknown') process.exitCode = EXIT.failed
}

/** `smmu-cosim walk`: the same as `ctl walk`, and of a recording. */
export function walkCommand(program: Command): void {
  const command = walkOptions(urlOptions(program.command('walk')))
    .addOption(
      new Option(
        '--recording <recording>',
        `of a recorded machine instead of a running one: a file, the name of a run, or ${LATEST}`,
      )
        .argParser(inputRecording)
        .conflicts('url'),
    )
    .option(
      '--at <trap>',
      'with --recording: as it stood after that trap; default: the last one with the SMMU on',
      whole,
    )
    .option(
      '--policy <name|file>',
      'with --recording: the policy that recomputes long writes; default: that of the recording',
    )
    .addOption(noTypeCheck())
  command.description('translate an address step by step').action(async (options: WalkCommandOptions) => {
    const { recording, at, policy } = options
    try {
      if (recording !== undefined) return await printRecordedWalk(recording, options)
      for (const [name, value] of Object.entries({ at, policy })) {
        if (value !== undefined) throw new UsageError(`--${name} is for a walk of a recording (--recording)`)
      }
      await printWalk(new Client(options), options)
    } catch (error) {
      fail(error)
    }
  })
}
