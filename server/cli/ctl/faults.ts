// SPDX-License-Identifier: Apache-2.0
/** Fault injection. */
import type { FaultEffect, FaultStatusView, Span } from '../../api/schemas/faults.ts'
import { entriesOf, isFile } from '../../faults/catalogue.ts'
import { counted, grouped, tenths } from '../../trace/words.ts'
import { whole } from '../numbers.ts'
import { type Add, list, plain } from './command.ts'

function spanText(name: string, span: Span): string {
  const { seconds, traps, aborted, gerrors, guardFaults, warnings, events, disk } = span
  const counts = [
    counted(traps, 'trap'),
    `${grouped(aborted)} aborted`,
    counted(gerrors, 'global error'),
    counted(guardFaults, 'guard fault'),
    ...(disk === null
      ? []
      : [
          `${counted(disk.reads, 'disk read')}, ${counted(disk.writes, 'write')}, ${counted(disk.bytes, 'byte')}, ${grouped(disk.failed)} failed`,
        ]),
    ...warnings.map(({ code, count }) => `${count} × ${code}`),
    ...events.map(({ name, count }) => `${count} × ${name}`),
  ]
  return `${name} (${tenths(seconds)} s): ${counts.join(', ')}`
}

const effectText = (effect: FaultEffect | null): string =>
  effect === null ? 'nothing was armed' : `${spanText('before', effect.before)}\n${spanText('since ', effect.since)}`

const statusText = ({ rules, firings }: FaultStatusView): string =>
  [
    ...(rules.length === 0 ? ['nothing is armed'] : []),
    ...rules.map(
      ({ rule, text, matches, fired }) =>
        `${rule}: ${text}; ${counted(matches, 'match', 'matches')}, fired ${counted(fired, 'time')}`,
    ),
    ...firings.map(({ rule, n, trap, what }) => `  ${rule} ${n}, trap ${trap}: ${what}`),
  ].join('\n')

export function faultCommands(add: Add): void {
  add('faults', 'faults that are armed, and what fired', plain, async client => {
    client.print(await client.call('GET /faults'), statusText)
  })
  add('fault-list', 'the catalogue of faults', plain, async client => {
    client.print(await client.call('GET /faults/catalogue'), entries =>
      list(entries, ({ name, expect, summary }) => `${name.padEnd(28)} ${expect}: ${summary}`),
    )
  })
  add<{ readonly seed?: number }>(
    'fault-arm <name|file...>',
    'arm faults of the catalogue, or of files; they replace those that are armed',
    command => command.option('--seed <n>', 'seed of everything random in them', whole),
    async (client, { seed }, names) => {
      const entries = (await Promise.all(names.filter(isFile).map(name => entriesOf(name)))).flat()
      const rules = entries.flatMap(entry => entry.rules)
      const faults = names.filter(name => !isFile(name))
      client.print(await client.call('POST /faults', { body: { faults, rules, seed } }), statusText)
    },
  )
  add('fault-effect', 'what was counted before the faults were armed, and since', plain, async client => {
    client.print(await client.call('GET /faults/effect'), effectText)
  })
  add('fault-disarm', 'disarm all faults', plain, async client => {
    await client.call('DELETE /faults')
  })
  add('fault-fire <rule>', 'fire a rule of the point machine now', plain, async (client, _options, [rule = '']) => {
    await client.call('POST /faults/:rule/fire', { params: { rule } })
  })
}
