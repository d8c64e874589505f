// SPDX-License-Identifier: Apache-2.0
/** What was recorded before. */
import type { ReportView } from '../../api/schemas/recordings.ts'
import { counted, grouped } from '../../trace/words.ts'
import { UsageError } from '../exit.ts'
import { whole } from '../numbers.ts'
import { type Add, list, plain } from './command.ts'

const reportText = ({ lines }: ReportView): string => lines.join('\n')

export function recordingCommands(add: Add): void {
  add('recordings', 'recordings in the folder of runs', plain, async client => {
    client.print(await client.call('GET /recordings'), ({ items }) =>
      list(items, ({ name, created, policy, kernel, bytes }) =>
        [name, created, policy, kernel, counted(bytes, 'byte')].join('  '),
      ),
    )
  })
  add(
    'replay <name>',
    'let the hypervisor decide again what was recorded',
    plain,
    async (client, _options, [name = '']) => {
      client.print(await client.call('POST /recordings/:name/replay', { params: { name } }), reportText)
    },
  )
  add(
    'compare <name> <other>',
    'what the second run did differently',
    plain,
    async (client, _options, [name = '', other = '']) => {
      client.print(await client.call('POST /recordings/:name/compare/:other', { params: { name, other } }), reportText)
    },
  )
  add<{ readonly with?: number }>(
    'campaigns [id]',
    'campaigns of fault sessions, or what came of one',
    command => command.option('--with <id>', 'what has changed with that one', whole),
    async (client, options, [text]) => {
      const id = Number(text)
      if (text === undefined) {
        if (options.with !== undefined) throw new UsageError('campaigns ID --with OTHER')
        client.print(await client.call('GET /campaigns'), ({ items }) =>
          list(
            items,
            ({ id, started, what, planned, done, asExpected }) =>
              `${id}  ${started}  ${grouped(done)} of ${grouped(planned)} done, ${grouped(asExpected)} as expected  ${what}`,
          ),
        )
      } else if (options.with !== undefined) {
        const params = { id, other: options.with }
        client.print(await client.call('GET /campaigns/:id/compare/:other', { params }), reportText)
      } else {
        client.print(await client.call('GET /campaigns/:id', { params: { id } }), ({ sessions }) =>
          list(
            sessions,
            ({ entry, kernel, until, seed, verdict, expected, asExpected }) =>
              `${entry}  ${kernel}  ${until}  seed ${seed}  ${verdict}${asExpected ? '' : `, expected ${expected.join(' or ') || 'any but harness-error'}`}`,
          ),
        )
      }
    },
  )
}
