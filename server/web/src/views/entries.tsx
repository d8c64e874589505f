// SPDX-License-Identifier: Apache-2.0
import type { SteView } from '../../../api/schemas/smmus.ts'

/** Entry of the host and what the hardware gets, field by field. */
export function EntryPair(props: { host: SteView | null; shadow: SteView | null; onlyDifferent?: boolean }) {
  const { host, shadow, onlyDifferent } = props
  const fields = (host ?? shadow)?.fields ?? []
  const both = host !== null && shadow !== null
  const rows = fields
    .map(({ name }, i) => ({
      name,
      host: host?.fields[i],
      shadow: shadow?.fields[i],
      differs: both && host.fields[i]?.value !== shadow.fields[i]?.value,
    }))
    .filter(row => row.differs || !onlyDifferent)
    // What is 0 on both sides says nothing.
    .filter(row => row.differs || [row.host, row.shadow].some(f => f && f.value !== '0' && f.value !== '0x0'))
  return (
    <table class="data fields">
      <thead>
        <tr>
          <th>Field</th>
          {host && <th class="host-text">Host</th>}
          {shadow && <th class="hyp-text">Shadow, used by the hardware</th>}
        </tr>
      </thead>
      <tbody>
        {rows.map(row => (
          <tr key={row.name} class={row.differs ? 'differs' : ''}>
            <th scope="row">{row.name}</th>
            {host && <Value field={row.host} />}
            {shadow && <Value field={row.shadow} />}
          </tr>
        ))}
        {rows.length === 0 && (
          <tr>
            <td colSpan={3} class="muted">
              {onlyDifferent ? 'no field differs' : 'all fields are 0'}
            </td>
          </tr>
        )}
      </tbody>
    </table>
  )
}

const Value = ({ field }: { field: { value: string; meaning?: string } | undefined }) => (
  <td class="mono">
    {field?.value}
    {field?.meaning && <span class="muted"> {field.meaning}</span>}
  </td>
)
