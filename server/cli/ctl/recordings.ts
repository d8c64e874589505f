// SPDX-License-Identifier: Apache-2.0
/** What was recorded before. */
import type { ReportView } from '../../api/schemas/recordings.ts'
import { counted } from '../../trace/words.ts'
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
  add('campaigns', 'campaigns of fault sessions', plain, async client => {
    client.print(await client.call('GET /campaigns'), ({ items }) =>
      list(
        items,
        ({ id, started, what, planned, done, asExpected }) =>
          `${id}  ${started}  ${done} of ${planned} done, ${asExpected} as expected  ${what}`,
      ),
    )
  })
}
