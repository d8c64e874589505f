// SPDX-License-Identifier: Apache-2.0
/** Breakpoints, and the trap that is held. */
import { Option } from 'commander'
import type { BreakpointBody, BreakpointView } from '../../api/schemas/breakpoints.ts'
import type { HeldView } from '../../api/schemas/lifecycle.ts'
import { ARM_SMMU_CMDQ_PROD } from '../../smmu/registers.ts'
import { counted } from '../../trace/words.ts'
import { UsageError } from '../exit.ts'
import { whole } from '../numbers.ts'
import type { Client } from './client.ts'
import { type Add, address, bytes, list, plain } from './command.ts'
import { heldText } from './lifecycle.ts'

const pointText = ({ id, text, enabled, matches }: BreakpointView): string =>
  `${String(id).padStart(3)} ${enabled ? ' ' : 'off'} ${text} (${counted(matches, 'match', 'matches')})`

/** The commands that a held write of CMDQ_PROD hands over, as they are now; none of another access. */
async function handedOver(client: Client, { hit, trap }: HeldView): Promise<string[]> {
  if (hit.phase !== 'before' || !trap.write || trap.offset !== ARM_SMMU_CMDQ_PROD) return []
  const { host } = await client.call('GET /smmus/:smmu/queues', { params: { smmu: trap.smmu } })
  if (host.pending === 0) return ['no new command']
  const shown = host.shown.slice(-host.pending)
  const earlier = host.pending - shown.length
  return [
    ...(earlier > 0 ? [`${counted(earlier, 'command')} before these`] : []),
    ...shown.map(({ index, text }) => `${String(index).padStart(6)} ${text}`),
  ]
}

/** Options that say what a breakpoint is on, and on what. */
const WHAT: Readonly<Record<string, BreakpointBody['on']>> = {
  register: 'register',
  command: 'command',
  sid: 'stream',
  base: 'address',
  warning: 'warning',
  event: 'event',
  function: 'function',
}

/** @throws UsageError when it is not clear */
function whatOf(options: object): BreakpointBody['on'] {
  const given = Object.entries(WHAT).filter(([option]) => option in options)
  const [what] = given
  if (what === undefined || given.length > 1) {
    throw new UsageError(`break: expected one of ${Object.values(WHAT).join(', ')}, or one of their options`)
  }
  return what[1]
}

export function breakpointCommands(add: Add): void {
  add('breakpoints', 'all breakpoints', plain, async client => {
    client.print(await client.call('GET /breakpoints'), points => list(points, pointText))
  })
  add<Omit<BreakpointBody, 'on'>>(
    'break [on]',
    'set a breakpoint: on register, command, stream, address, warning, event or function; without, on the one option given',
    command =>
      command
        .option('--register <name>', 'name or 0x offset')
        .addOption(new Option('--access <what>').choices(['read', 'write', 'any']))
        .option('--value <number>', 'only this value', address)
        .option('--mask <number>', 'bits of the value that count', address)
        .option('--command <name>', 'e.g. CFGI_STE')
        .option('--sid <n>', 'StreamID', whole)
        .option('--base <address>', 'start of the range', address)
        .option('--size <bytes>', 'of the range', bytes)
        .option('--warning <code>', 'e.g. HYP_CMDQ_TIMEOUT')
        .option('--event <name>', 'e.g. F_TRANSLATION')
        .option('--function <name>', 'kernel function that makes the trap, or calls who does')
        .option('--smmu <n>', 'only this SMMU', whole)
        .option('--skip <n>', 'matches to pass over', whole)
        .option('--once', 'removed by its first hit'),
    async (client, options, [on = whatOf(options)]) => {
      const body = { on: on as BreakpointBody['on'], ...options }
      client.print(await client.call('POST /breakpoints', { body }), pointText)
    },
  )
  add('unbreak <id>', 'remove a breakpoint', plain, async (client, _options, [id]) => {
    await client.call('DELETE /breakpoints/:id', { params: { id: Number(id) } })
  })
  for (const enabled of [true, false]) {
    const what = enabled ? 'enable' : 'disable'
    add(`${what} <id>`, `${what} a breakpoint`, plain, async (client, _options, [id]) => {
      await client.call('PATCH /breakpoints/:id', { params: { id: Number(id) }, body: { enabled } })
    })
  }
  add<{ readonly off?: true }>(
    'hold',
    'hold the next trap',
    command => command.option('--off', 'no longer hold it'),
    async (client, { off }) => {
      await client.call('POST /break', { body: { on: off !== true } })
    },
  )
  add('held', 'the trap that is held', plain, async client => {
    const held = await client.call('GET /held')
    const commands = held === null || client.json ? [] : await handedOver(client, held)
    client.print(held, held => (held ? heldText(held, commands) : 'none'))
  })
  for (const [action, description] of [
    ['continue', 'release the held trap'],
    ['step', 'release it and hold the next trap'],
    ['drop', 'release it without the policy: a write is lost, a read returns 0'],
    ['abort', 'release it with an external abort'],
  ] as const) {
    const changes = action === 'continue' || action === 'step'
    add<{ readonly value?: string }>(
      action,
      description,
      command => (changes ? command.option('--value <number>', 'written instead, or the answer', address) : command),
      async (client, { value }) => {
        await client.call('POST /held/release', { body: { action, value } })
      },
    )
  }
}
